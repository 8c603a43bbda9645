"""The binary layout of CIFAR-10 and CIFAR-100; the pickled one is never read."""

import math
from pathlib import Path

import numpy as np
import torch

from corral.data.images import Images
from corral.data.loading.layout import as_labels, check_balanced, foreign_label, read_rows

SHAPE = (3, 32, 32)
COARSE_CLASSES = 20


def read_cifar(files: list[Path], official: int, label_bytes: int, num_classes: int) -> Images:
    """One part: rows of label bytes (coarse before fine), then the pixels by channel, row, column.

    Args:
        files: of the part.
        official: rows of each official file; others are read where they hold whole, exactly class-balanced rows.
        label_bytes: 1, or 2 where a coarse label stands before the fine one.
        num_classes: how many classes there are.

    Raises:
        CorralError: truncated or foreign files; the message names file, found and expected.
    """
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
