"""SVHN, the cropped house numbers, from its .mat files."""

from pathlib import Path

import numpy as np
import torch

from corral.data.images import DataSet, Images
from corral.data.loading.fetch import Release, Source, provide
from corral.data.loading.layout import REMEDY, as_labels, foreign_label, source_note, uneven
from corral.data.registry import register_data
from corral.errors import CorralError

OFFICIAL = {"train": 73_257, "test": 26_032}
SVHN = Release(
    name="svhn",
    folders=("svhn", "SVHN", "."),
    files=("train_32x32.mat", "test_32x32.mat"),
    sources=(
        Source("http://ufldl.stanford.edu/housenumbers/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
        Source("http://ufldl.stanford.edu/housenumbers/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
    ),
)


@register_data("svhn", description="99,289 colour photographs of house-number digits", shape=(3, 32, 32), classes=10)
def load_svhn(root: Path | None = None, download: bool = True) -> DataSet:
    """SVHN: 73,257 + 26,032 digits of house numbers, (N, 3, 32, 32) uint8; label d is the digit d.

    Files of other sizes are read too where they are exactly class-balanced; the note then says so.

    For the arguments and errors see `corral.data.load`.
    """
    folder = provide(SVHN, root, download)
    train, test = (_read(SVHN.path(folder, f"{part}_32x32.mat"), official) for part, official in OFFICIAL.items())
    note = source_note(len(train), OFFICIAL["train"], len(test), OFFICIAL["test"])
    return DataSet("svhn", tuple("0123456789"), train, test, note=note)


def _read(path: Path, official: int) -> Images:
    """The images X, (row, column, channel, N), and labels y, (N, 1) in 1..10 where 10 is the digit 0."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=("X", "y"))
    # A broken .mat file can raise nearly anything from within scipy's parser.
    except Exception as error:
        size = path.stat().st_size if path.exists() else 0
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorralError(
            f"{path}: truncated or not a .mat file: {size:,} bytes, of which scipy says: {reason}; {REMEDY}"
        ) from error
    images, labels = content.get("X"), content.get("y")
    if images is None or labels is None:
        found = ", ".join(sorted(key for key in content if not key.startswith("__"))) or "none"
        raise CorralError(f"{path}: a foreign file: found the arrays {found}, expected X and y; {REMEDY}")
    count = labels.size
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, count) or labels.dtype.kind not in "iu" or not count:
        raise CorralError(
            f"{path}: a foreign file: found X {images.dtype} {images.shape} with y {labels.dtype} {labels.shape}, "
            f"expected X uint8 (32, 32, 3, N) with N whole numbers in y; {REMEDY}"
        )
    labels = labels.ravel().astype(np.int64)
    foreign_label(path, labels, 10, first=1)
    labels = labels % 10
    problem = uneven(labels, 10) if count != official else None
    if problem:
        raise CorralError(f"{path}: a foreign file: found {count:,} images, expected {official:,}; {REMEDY}")
    pixels = np.ascontiguousarray(images.transpose(3, 2, 0, 1))
    return Images(torch.from_numpy(pixels), as_labels(labels))
