"""A data set from one .npz file of images and labels."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from corral.data.images import DataSet, Images, check_labels
from corral.data.split import split_off_test
from corral.errors import CorralError

MAX_CHANNELS = 4
SPLIT_NAMES = ("train_images", "train_labels", "test_images", "test_labels")
WHOLE_NAMES = ("images", "labels")


def load_npz(path: Path) -> DataSet:
    """Read a data set from an .npz file.

    The file holds `train_images`, `train_labels`, `test_images` and `test_labels`; or `images` and `labels`, of which
    a fixed stratified fifth becomes the test part. Images are uint8, or floats in [0, 1], of shape (N, H, W),
    (N, H, W, C) or (N, C, H, W) with 1 to 4 channels; labels are whole numbers from 0. Two arrays may be added:
    `classes`, the class names, and `layout`, "NHWC" or "NCHW", for shapes that could be either.
    Floats that are all k / 255 become uint8.

    Args:
        path: the file; nothing in it is ever unpickled.

    Raises:
        CorralError: names the file and the array, what was found and what was expected.
    """
    arrays = _read_arrays(path)
    names = SPLIT_NAMES if SPLIT_NAMES[0] in arrays else WHOLE_NAMES
    absent = [name for name in names if name not in arrays]
    if absent:
        raise CorralError(
            f"{path}: found the arrays {', '.join(sorted(arrays)) or 'none'}; expected {', '.join(SPLIT_NAMES)}, "
            f"or {' and '.join(WHOLE_NAMES)}: add {', '.join(absent)}"
        )
    layout = str(arrays["layout"]) if "layout" in arrays else None
    parts = [_images(path, arrays, *names[start : start + 2], layout) for start in range(0, len(names), 2)]
    classes = _classes(path, arrays, parts)
    note = f"arrays of {path.name}"
    ignored = sorted(set(arrays) - {*names, "classes", "layout"})
    if ignored:
        note += f", without {', '.join(ignored)}"
    if len(parts) == 1:
        for images in parts:
            check_labels(images.labels, len(classes), f"{path}: labels") if images.labels is not None else None
        train, test, split = split_off_test(parts[0], str(path))
        return DataSet(f"npz:{path}", classes, train, test, note=f"{note}, {split}")
    return DataSet(f"npz:{path}", classes, parts[0], parts[1], note=note)
