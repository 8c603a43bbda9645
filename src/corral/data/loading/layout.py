"""What the readers of official file layouts share: whole files, whole rows, and the right classes in them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from corral.errors import CorralError
from corral.reading import check_file

REMEDY = "delete it and load again to fetch the official one"


def read_rows(path: Path, row_bytes: int, official: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """(rows, row_bytes) uint8: a file of fixed-size rows, `official` of them in the official one, or fewer.

    Raises:
        CorralError: the file cannot be read, is empty, ends within a row, or has more rows.
    """
    check_rows(path, row_bytes, official)
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise CorralError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error
    return content.reshape(-1, row_bytes)


def check_rows(path: Path, row_bytes: int, official: int) -> None:
    """Refuse, before anything is read, a file that is not of 1 to `official` whole rows."""
    size = check_file(path, remedy=REMEDY)
    if not size or size % row_bytes or size > official * row_bytes:
        raise truncated(path, size, row_bytes, official)


def truncated(path: Path, found: int, row_bytes: int, official: int) -> CorralError:
    """The error of a file of a wrong size: found and expected bytes."""
    return CorralError(
        f"{path}: truncated or foreign: found {found:,} bytes, expected {official * row_bytes:,} "
        f"({official:,} rows of {row_bytes:,}); {REMEDY}"
    )


def foreign_label(path: Path, labels: np.ndarray, num_classes: int, first: int = 0) -> None:
    """Refuse a file that holds a label outside [first, first + num_classes).

    Raises:
        CorralError: names the label, its row and the classes.
    """
    wrong = np.flatnonzero((labels < first) | (labels >= first + num_classes))
    if wrong.size:
        row = int(wrong[0])
        raise CorralError(
            f"{path}: a foreign file: row {row} has label {int(labels[row])}, "
            f"expected {first} to {first + num_classes - 1}; {REMEDY}"
        )


def uneven(labels: np.ndarray, num_classes: int) -> str | None:
    """None where every class has equally many of `labels`, else what is found and expected."""
    counts = np.bincount(labels, minlength=num_classes)
    expected = labels.size / num_classes
    wrong = np.flatnonzero(counts != expected)
    if not wrong.size:
        return None
    return f"found {int(counts[wrong[0]]):,} images of class {int(wrong[0])}, expected {expected:,.10g} of every class"


def check_balanced(
    files: Sequence[Path], rows: Sequence[int], row_bytes: int, official: int, labels: np.ndarray, num_classes: int
) -> None:
    """Refuse a part whose classes are not equally frequent.

    The official parts of CIFAR-10, CIFAR-100 and STL-10 are, and so is a subset that was cut on purpose; a download
    that ended early or other content of the right size is not.

    Args:
        files: the files of one part, each officially of `official` rows.
        rows: rows found in each.
        row_bytes: bytes of one row.
        official: rows of each official file.
        labels: (N,) integers of the whole part, already known to be in range.
        num_classes: how many classes there are.

    Raises:
        CorralError: names the file, found and expected.
    """
    problem = uneven(labels, num_classes)
    if problem is None:
        return
    for path, found in zip(files, rows, strict=True):
        if found != official:
            raise truncated(path, found * row_bytes, row_bytes, official)
    raise CorralError(f"{files[0]}: foreign content: {problem}; {REMEDY}")


def source_note(train: int, official_train: int, test: int, official_test: int, kind: str = "class-balanced ") -> str:
    """ "official" for a complete data set, else how much of it there is."""
    if (train, test) == (official_train, official_test):
        return "official"
    return f"{kind}subset: {train:,} of {official_train:,} train and {test:,} of {official_test:,} test images"


def as_labels(labels: np.ndarray) -> Tensor:
    """Labels of any integer type as an int64 tensor."""
    return torch.from_numpy(labels.astype(np.int64))
