"""CIFAR-10 and CIFAR-100 from their binary layout; the pickled one is never read."""

from pathlib import Path

import numpy as np
import torch

from corral.data.fetch import Release, Source, provide
from corral.data.images import DataSet, Images
from corral.data.layout import REMEDY, as_labels, check_balanced, foreign_label, read_rows, source_note
from corral.errors import CorralError

SHAPE = (3, 32, 32)
PIXEL_BYTES = 3 * 32 * 32
COARSE_CLASSES = 20

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10 = Release(
    name="cifar10",
    folders=("cifar-10-batches-bin",),
    files=(*CIFAR10_TRAIN, "test_batch.bin"),
    sources=(Source("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
    extras=("batches.meta.txt",),
    pickled="cifar-10-batches-py",
)
CIFAR100 = Release(
    name="cifar100",
    folders=("cifar-100-binary",),
    files=("train.bin", "test.bin", "fine_label_names.txt"),
    sources=(Source("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),),
    extras=("coarse_label_names.txt",),
    pickled="cifar-100-python",
)


def load_cifar10(root: Path | None = None, download: bool = True) -> DataSet:
    """CIFAR-10: 50,000 + 10,000 colour photographs in 10 classes, (N, 3, 32, 32) uint8.

    Files of other sizes are read too where they hold whole, exactly class-balanced rows; the note then says so.

    Args:
        root: the folder to look in and to fetch into; by default CORRAL_DATA and the per-user cache.
        download: fetch the official archive where the data set is not there.

    Raises:
        CorralError: absent, truncated or foreign files; the message names file, found and expected.
    """
    folder = provide(CIFAR10, root, download)
    train = _read([folder / name for name in CIFAR10_TRAIN], official=10_000, label_bytes=1, num_classes=10)
    test = _read([folder / "test_batch.bin"], official=10_000, label_bytes=1, num_classes=10)
    note = source_note(len(train), 50_000, len(test), 10_000)
    return DataSet("cifar10", CIFAR10_CLASSES, train, test, note=note)


def load_cifar100(root: Path | None = None, download: bool = True) -> DataSet:
    """CIFAR-100 with its 100 fine labels: 50,000 + 10,000 colour photographs, (N, 3, 32, 32) uint8.

    See `load_cifar10` for the arguments, and for what is accepted and refused.
    """
    folder = provide(CIFAR100, root, download)
    classes = _class_names(folder / "fine_label_names.txt", 100)
    train = _read([folder / "train.bin"], official=50_000, label_bytes=2, num_classes=100)
    test = _read([folder / "test.bin"], official=10_000, label_bytes=2, num_classes=100)
    note = source_note(len(train), 50_000, len(test), 10_000)
    return DataSet("cifar100", classes, train, test, note=note)


def _read(files: list[Path], official: int, label_bytes: int, num_classes: int) -> Images:
    """One part: rows of label bytes (coarse before fine), then the pixels by channel, row, column."""
    row_bytes = label_bytes + PIXEL_BYTES
    parts = [read_rows(path, row_bytes, official) for path in files]
    for path, rows in zip(files, parts, strict=True):
        foreign_label(path, rows[:, label_bytes - 1], num_classes)
        if label_bytes == 2:
            foreign_label(path, rows[:, 0], COARSE_CLASSES)
    labels = np.concatenate([rows[:, label_bytes - 1] for rows in parts])
    check_balanced(files, [len(rows) for rows in parts], row_bytes, official, labels, num_classes)
    pixels = np.concatenate([rows[:, label_bytes:] for rows in parts])
    return Images(torch.from_numpy(pixels).view(-1, *SHAPE), as_labels(labels))


def _class_names(path: Path, expected: int) -> tuple[str, ...]:
    try:
        names = tuple(path.read_text("utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise CorralError(f"{path}: cannot be read ({error}); {REMEDY}") from error
    if len(names) != expected:
        raise CorralError(f"{path}: found {len(names)} class names, expected {expected}; {REMEDY}")
    return names
