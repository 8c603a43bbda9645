"""STL-10 from its binary layout, with the unlabeled images left on the disk."""

from pathlib import Path

import numpy as np
import torch

from corral.data.images import DataSet, Images
from corral.data.loading.fetch import Release, Source, provide
from corral.data.loading.layout import (
    REMEDY,
    as_labels,
    check_balanced,
    check_rows,
    foreign_label,
    read_rows,
    source_note,
    truncated,
)
from corral.data.registry import register_data
from corral.errors import CorralError

CHANNELS, SIDE = 3, 96
IMAGE_BYTES = CHANNELS * SIDE * SIDE
OFFICIAL = {"train": 5_000, "test": 8_000, "unlabeled": 100_000}
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
STL10 = Release(
    name="stl10",
    folders=("stl10_binary",),
    files=("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"),
    sources=(Source("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb"),),
    extras=("unlabeled_X.bin", "class_names.txt"),
)


@register_data("stl10", description="13,000 colour photographs, 100,000 unlabeled", shape=(3, 96, 96), classes=10)
def load_stl10(root: Path | None = None, download: bool = True) -> DataSet:
    """STL-10: 5,000 + 8,000 colour photographs in 10 classes and 100,000 unlabeled ones, (N, 3, 96, 96) uint8.

    The unlabeled images stay on the disk: their pixels are a memory map of `unlabeled_X.bin`; without that file
    `unlabeled` is None. Files of other sizes are read too where they hold whole, exactly class-balanced rows; the note
    then says so. The archive has 2.6 GB.

    For the arguments and errors see `corral.data.load`.
    """
    folder = provide(STL10, root, download)
    train, test = (_read_part(folder, part) for part in ("train", "test"))
    unlabeled = _map_unlabeled(STL10.path(folder, "unlabeled_X.bin"))
    note = source_note(len(train), OFFICIAL["train"], len(test), OFFICIAL["test"])
    found = 0 if unlabeled is None else len(unlabeled)
    if found != OFFICIAL["unlabeled"]:
        note += f"; {found:,} of {OFFICIAL['unlabeled']:,} unlabeled images"
    return DataSet("stl10", CLASSES, train, test, unlabeled, note)


def _read_part(folder: Path, part: str) -> Images:
    images, answers = STL10.path(folder, f"{part}_X.bin"), STL10.path(folder, f"{part}_y.bin")
    official = OFFICIAL[part]
    rows = read_rows(images, IMAGE_BYTES, official)
    labels = read_rows(answers, 1, official).ravel()
    if len(labels) != len(rows):
        if len(labels) == official:
            raise truncated(images, rows.size, IMAGE_BYTES, official)
        raise CorralError(
            f"{answers}: truncated or foreign: found {len(labels):,} labels for {len(rows):,} images; {REMEDY}"
        )
    # The files count classes from 1.
    foreign_label(answers, labels, len(CLASSES), first=1)
    check_balanced([images], [len(rows)], IMAGE_BYTES, official, labels - 1, len(CLASSES))
    return Images(torch.from_numpy(np.ascontiguousarray(_upright(rows))), as_labels(labels) - 1)


def _map_unlabeled(path: Path) -> Images | None:
    if not path.exists():
        return None
    check_rows(path, IMAGE_BYTES, OFFICIAL["unlabeled"])
    # Copy-on-write: torch asks for writable memory, and the file must never change.
    rows = np.memmap(path, dtype=np.uint8, mode="c").reshape(-1, IMAGE_BYTES)
    return Images(torch.from_numpy(_upright(rows)))


def _upright(rows: np.ndarray) -> np.ndarray:
    """(N, 27648) bytes in the order channel, column, row as an (N, 3, 96, 96) view in channel, row, column."""
    return rows.reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 1, 3, 2)
