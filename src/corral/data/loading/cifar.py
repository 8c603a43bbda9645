"""The binary layout of CIFAR-10 and CIFAR-100; the pickled one is never read."""

import math
from pathlib import Path

import numpy as np
import torch

from corral.data.images import DataSet, Images
from corral.data.loading.layout import as_labels, check_balanced, foreign_label, read_rows, source_note

SHAPE = (3, 32, 32)
COARSE_CLASSES = 20
TRAIN_ROWS, TEST_ROWS = 50_000, 10_000


def read_cifar(name: str, classes: tuple[str, ...], train: list[Path], test: Path, *, label_bytes: int) -> DataSet:
    """The data set of 50,000 + 10,000 images in these files.

    Files of other sizes are read where they hold whole, exactly class-balanced rows; the note then says so.

    Args:
        name: of the data set.
        classes: their names.
        train: the files of the training part, each officially of equally many rows.
        test: the file of the test part.
        label_bytes: 1, or 2 where a coarse label stands before the fine one.

    Raises:
        CorralError: truncated or foreign files; the message names file, found and expected.
    """
    parts = [
        _read_part(files, rows // len(files), label_bytes, len(classes))
        for files, rows in ((train, TRAIN_ROWS), ([test], TEST_ROWS))
    ]
    note = source_note(len(parts[0]), TRAIN_ROWS, len(parts[1]), TEST_ROWS)
    return DataSet(name, classes, parts[0], parts[1], note=note)


def _read_part(files: list[Path], official: int, label_bytes: int, num_classes: int) -> Images:
    """One part: rows of label bytes, then the pixels by channel, row, column; `official` rows in each official file."""
    row_bytes = label_bytes + math.prod(SHAPE)
    parts = [read_rows(path, row_bytes, official) for path in files]
    for path, rows in zip(files, parts, strict=True):
        foreign_label(path, rows[:, label_bytes - 1], num_classes)
        if label_bytes == 2:
            foreign_label(path, rows[:, 0], COARSE_CLASSES)
    labels = np.concatenate([rows[:, label_bytes - 1] for rows in parts])
    check_balanced(files, [len(rows) for rows in parts], row_bytes, official, labels, num_classes)
    pixels = np.concatenate([rows[:, label_bytes:] for rows in parts])
    return Images(torch.from_numpy(pixels).view(-1, *SHAPE), as_labels(labels))
