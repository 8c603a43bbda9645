"""SVHN, the cropped house numbers, from its .mat files."""

from pathlib import Path

import numpy as np
import torch

from corral.data.images import DataSet, Images
from corral.data.loading.fetch import Release, Source, provide
from corral.data.loading.layout import REMEDY, as_labels, foreign_label, source_note, uneven
from corral.data.registry import register_data
from corral.errors import CorralError
from corral.processes import ProcessDiedError, output_of
from corral.reading import check_file, read_arrays

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


# scipy's reader dies of a signal for some damaged files, so it has a process of its own: arrays as an .npz, or words.
READER = """
import io
import numpy as np
from scipy.io import loadmat
made = io.BytesIO()
try:
    found = loadmat(sys.argv[1], variable_names=("X", "y"))
    numbers = {name: array for name, array in found.items() if getattr(array, "dtype", np.dtype("O")).kind in "iufb"}
    np.savez(made, **numbers)
# A broken .mat file can raise nearly anything from within scipy's parser.
except BaseException as error:
    words = (str(error).splitlines() or [""])[0] or type(error).__name__
    made = io.BytesIO(words[:500].encode(errors="replace"))
sys.stdout.buffer.write(made.getvalue())
"""
# The larger official part has 225,045,504 bytes of pixels; reading it takes seconds.
MOST_BYTES, MOST_SECONDS = 1 << 28, 300.0


def _parsed(path: Path) -> dict[str, np.ndarray]:
    """The arrays X and y of a .mat file, those of them that it has."""
    size = check_file(path, remedy=REMEDY, most=MOST_BYTES)
    problem = f"{path}: truncated or not a .mat file: {size:,} bytes, of which scipy says"
    try:
        content = output_of(READER, str(path), most=MOST_BYTES, seconds=MOST_SECONDS)
    except ProcessDiedError as error:
        raise CorralError(f"{problem} nothing: its reader ended ({error}); {REMEDY}") from error
    if not content.startswith(b"PK"):
        raise CorralError(f"{problem}: {content.decode(errors='replace') or 'nothing'}; {REMEDY}")
    return read_arrays(path, kind="a .mat file", remedy=REMEDY, content=content)


def _read(path: Path, official: int) -> Images:
    """The images X, (row, column, channel, N), and labels y, (N, 1) in 1..10 where 10 is the digit 0."""
    content = _parsed(path)
    images, labels = content.get("X"), content.get("y")
    if images is None or labels is None:
        found = ", ".join(sorted(content)) or "none"
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
