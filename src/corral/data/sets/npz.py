"""A data set from one .npz file of images and labels."""

from pathlib import Path

import numpy as np

from corral.data.images import DataSet
from corral.data.loading.arrays import Layout, as_labels, as_pixels, labelled_parts, layout_by_channels
from corral.data.registry import register_path_data
from corral.data.split import split_off_test
from corral.errors import CorralError
from corral.files import as_text
from corral.reading import read_arrays

SPLIT_NAMES = ("train_images", "train_labels", "test_images", "test_labels")
WHOLE_NAMES = ("images", "labels")
OPTIONAL_NAMES = ("classes", "layout")
REMEDY = "write it again with numpy.savez"


@register_path_data("npz", description="one .npz file of images and labels")
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
    arrays = read_arrays(path, remedy=REMEDY)
    names = SPLIT_NAMES if any(name in arrays for name in SPLIT_NAMES) else WHOLE_NAMES
    absent = [name for name in names if name not in arrays]
    if absent:
        raise CorralError(
            f"{path}: found the arrays {', '.join(sorted(arrays)) or 'none'}; expected {', '.join(SPLIT_NAMES)}, "
            f"or {' and '.join(WHOLE_NAMES)}: add {', '.join(absent)}"
        )
    layouts = {name: _layout(path, name, arrays) for name in names[::2]}
    pixels = {name: as_pixels(f"{path}: {name}", arrays[name], layout=layouts[name]) for name in layouts}
    labels = {name: as_labels(f"{path}: {name}", arrays[name]) for name in names[1::2]}
    remedy = "add the names of all classes as an array classes"
    classes, parts = labelled_parts(str(path), _classes(path, arrays), pixels, labels, remedy=remedy)
    name, note = f"npz:{as_text(path)}", f"arrays of {as_text(path.name)}"
    ignored = sorted(set(arrays) - {*names, *OPTIONAL_NAMES})
    if ignored:
        note += f" without {', '.join(ignored)}"
    if len(parts) == 2:
        return DataSet(name, classes, parts[0], parts[1], note=note)
    train, test, split = split_off_test(parts[0], str(path))
    return DataSet(name, classes, train, test, note=f"{note}; {split}", split_off=True)


def _layout(path: Path, name: str, arrays: dict[str, np.ndarray]) -> Layout | None:
    """The layout of images of rank 4: what `layout` says, or the axis of 1 to 4 channels."""
    if arrays[name].ndim != 4:
        return None
    if "layout" not in arrays:
        return layout_by_channels(f"{path}: {name}", arrays[name], remedy='add an array layout = "NHWC" or "NCHW"')
    stated = str(arrays["layout"])
    known: dict[str, Layout] = {"NHWC": "NHWC", "NCHW": "NCHW"}
    if stated not in known:
        raise CorralError(f"{path}: layout is {stated!r}, expected NHWC or NCHW")
    return known[stated]


def _classes(path: Path, arrays: dict[str, np.ndarray]) -> list[str] | None:
    """The names in `classes`, if it is there."""
    if "classes" not in arrays:
        return None
    names = arrays["classes"]
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise CorralError(f"{path}: classes is {names.dtype} of shape {names.shape}, expected a list of names")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names.tolist()]
