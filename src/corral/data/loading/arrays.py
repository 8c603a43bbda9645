"""Arrays of images and labels as a data set, whoever made them: a file or a function of the user's."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corral.data.images import DataSet, Images, check_labels, require_all_classes
from corral.data.loading.memmap import ROWS, allocate
from corral.errors import CorralError, UsageError

Layout = Literal["NCHW", "NHWC"]
# More than any set has; a label above is a mistake, and a name for each class before it would not fit the memory.
MOST_CLASSES = 2**20
MAX_CHANNELS = 4
# What a float of [0, 1] may be outside of it by rounding, as after a resize; clipped.
ROUNDING = 1e-6
LAYOUT_REMEDY = 'state layout="NHWC" or "NCHW"'


def from_arrays(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    name: str,
    classes: int | Sequence[str] | None = None,
    shape: tuple[int, int, int] | None = None,
    layout: Layout | None = None,
    note: str = "arrays",
) -> DataSet:
    """A data set from four tensors or NumPy arrays.

    Args:
        x_train: images, uint8 or floats in [0, 1], of shape (N, H, W), (N, H, W, C) or (N, C, H, W). Floats that are
            all k / 255 become uint8.
        y_train: (N,) whole numbers from 0.
        x_test: images like `x_train`.
        y_test: (M,) whole numbers from 0.
        name: of the data set; messages begin with it.
        classes: their number or their names; default the numbers up to the largest label.
        shape: (C, H, W) that every image must have; default that of the training images.
        layout: of arrays of rank 4; default what `shape`, or an axis of 1 to 4 channels, says; of a tensor (N, C, H, W)
            where both axes could be.
        note: what a reader should know of the source.

    Raises:
        UsageError: a number or names of classes, or a layout, that are none.
        CorralError: names the array, what was found and what was expected.
    """
    check_stated(classes, layout)
    pixels, labels = {}, {}
    for part, values in (("x_train", x_train), ("x_test", x_test)):
        where, array = f"{name}: {part}", as_array(f"{name}: {part}", values)
        if layout is None and array.ndim == 4:  # the layout of the training images is that of the test images
            layout = layout_of(where, array, shape) if shape is not None else layout_by_channels(where, array, values)
        pixels[part] = as_pixels(where, array, layout=layout)
        found = tuple(pixels[part].shape[1:])
        if shape not in (None, found):
            raise CorralError(f"{where}: images are {found} (C, H, W), expected {shape}")
    for part, values in (("y_train", y_train), ("y_test", y_test)):
        labels[part] = as_labels(f"{name}: {part}", as_array(f"{name}: {part}", values))
    names, (train, test) = labelled_parts(name, classes, pixels, labels, remedy="state the classes")
    return DataSet(name, names, train, test, note=note)


def check_stated(classes: Any, layout: object) -> None:
    """Refuse what a user states of arrays and cannot be meant.

    Raises:
        UsageError: names it, and what is allowed.
    """
    if layout not in (None, "NCHW", "NHWC"):
        raise UsageError(f"layout is {layout!r:.40}, expected NCHW or NHWC")
    number = isinstance(classes, int) and not isinstance(classes, bool) and 1 <= classes <= MOST_CLASSES
    listed = isinstance(classes, Sequence | np.ndarray) and not isinstance(classes, str)
    names = listed and all(isinstance(name, str) for name in classes)
    if not (classes is None or number or names):
        found = classes if isinstance(classes, int) else type(classes).__name__
        raise UsageError(
            f"classes must be their number, 1 to {MOST_CLASSES:,}, or a list of their names, found {found}"
        )


def as_array(where: str, values: Any) -> NDArray[Any]:
    """A tensor, wherever it is, an array, or nested lists of numbers, as an array.

    Raises:
        CorralError: something else, or lists of different lengths.
    """
    if isinstance(values, Tensor):
        try:
            host = values.detach().cpu()
            array: NDArray[Any] = (host.float() if host.is_floating_point() else host).numpy()
        except (TypeError, RuntimeError) as error:  # a sparse or a quantised one, or one without content (meta)
            words = str(error).splitlines()[0]
            raise CorralError(f"{where}: found a tensor that is no plain array of numbers ({words})") from error
        return array
    if isinstance(values, list | tuple) or hasattr(values, "__array__"):
        try:
            found: NDArray[Any] = np.asarray(values)
        except Exception as error:  # whatever a foreign class raises, and lists of different lengths
            raise CorralError(
                f"{where}: found {type(values).__name__} that is no array of numbers ({error})"
            ) from error
        return found
    raise CorralError(f"{where}: found {type(values).__name__}, expected a tensor or a NumPy array")


def layout_of(where: str, array: NDArray[Any], shape: tuple[int, int, int]) -> Layout:
    """The layout of images of rank 4 that should be of a (C, H, W) shape; "NCHW" where they are of another one.

    Raises:
        CorralError: they could lie either way.
    """
    channels, height, width = shape
    first, last = array.shape[1:] == shape, array.shape[1:] == (height, width, channels)
    if first and last:
        raise CorralError(f"{where} of shape {array.shape} could be NHWC or NCHW: {LAYOUT_REMEDY}")
    return "NHWC" if last else "NCHW"


def layout_by_channels(where: str, array: NDArray[Any], given: object = None, *, remedy: str = LAYOUT_REMEDY) -> Layout:
    """The layout of images of rank 4 whose channels are the one axis of 1 to 4; torch's where it is given a tensor.

    Raises:
        CorralError: they could lie either way, or neither.
    """
    first, last = (1 <= array.shape[axis] <= MAX_CHANNELS for axis in (1, 3))
    if first and isinstance(given, Tensor):
        return "NCHW"
    if first == last:
        problem = "could be NHWC or NCHW" if first else f"has no axis of 1 to {MAX_CHANNELS} channels"
        raise CorralError(f"{where} of shape {array.shape} {problem}: {remedy}")
    return "NHWC" if last else "NCHW"


def as_pixels(where: str, array: NDArray[Any], *, layout: Layout | None) -> Tensor:
    """Images as (N, C, H, W) uint8 where every value is k / 255, else float32.

    Args:
        where: what a message begins with.
        array: uint8 or floats, of shape (N, H, W), (N, H, W, C) or (N, C, H, W).
        layout: of rank 4; not read of rank 3.

    Raises:
        CorralError: another type or rank. Values are checked by `Images`.
    """
    check_pixel_type(where, array)
    if array.dtype == np.uint8 and array.size and array.max() == 1:
        raise CorralError(
            f"{where} is uint8 of 0 and 1 alone, almost black where 255 is white: multiply it by 255, or store floats"
        )
    if array.ndim not in (3, 4):
        raise CorralError(f"{where} has the shape {array.shape}, expected (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if array.ndim == 3:
        array = array[:, None]
    elif layout == "NHWC":
        array = array.transpose(0, 3, 1, 2)
    content = np.ascontiguousarray(array if array.dtype == np.uint8 else _levels_or_floats(array))
    with warnings.catch_warnings():  # of arrays that are read-only, such as maps of files: nothing is written to pixels
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(content)


def check_pixel_type(where: str, array: NDArray[Any]) -> None:
    """Refuse what is neither uint8 nor floats.

    Raises:
        CorralError: names the type, and the range of whole numbers.
    """
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        values = f" (found {array.min()} to {array.max()})" if array.dtype.kind in "iub" and array.size else ""
        raise CorralError(f"{where} is {array.dtype}, expected uint8 or floats in [0, 1]: convert it{values}")


def _levels_or_floats(array: NDArray[Any]) -> NDArray[Any]:
    """Floats as uint8 where every one is k / 255, else as float32; some images at a time, for copies are large."""
    floats, levels, exact = allocate(array.shape, np.float32), allocate(array.shape), array.size > 0
    for begin in range(0, len(array), ROWS):
        part = as_floats(array[begin : begin + ROWS])
        floats[begin : begin + ROWS] = part
        if not exact:
            continue
        # NaN and values outside [0, 1] stay floats here, and `Images` names them.
        nearest = np.rint(np.clip(np.nan_to_num(part), 0, 1) * 255)
        levels[begin : begin + ROWS] = nearest.astype(np.uint8)
        # Half a unit in the last place of float32 near 1, the rounding of k / 255 stored in any float type.
        exact = bool(np.abs(nearest / np.float32(255) - part).max() <= 2**-23)
    return levels if exact else floats


def as_floats(array: NDArray[Any]) -> NDArray[Any]:
    """Floats as float32; what rounding leaves outside of [0, 1] is inside."""
    part = array.astype(np.float32)
    return np.where((part >= -ROUNDING) & (part <= 1 + ROUNDING), part.clip(0, 1), part)


def as_labels(where: str, array: NDArray[Any]) -> Tensor:
    """(N,) int64 labels from whole numbers of any type, (N,) or (N, 1).

    Raises:
        CorralError: another type or shape, or none.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "iu" or array.ndim != 1 or not array.size:
        raise CorralError(f"{where} is {array.dtype} of shape {array.shape}, expected one whole number for each image")
    return torch.from_numpy(array.astype(np.int64))


def labelled_parts(
    where: str,
    classes: int | Sequence[str] | None,
    pixels: Mapping[str, Tensor | Images],
    labels: Mapping[str, Tensor],
    *,
    remedy: str,
) -> tuple[tuple[str, ...], list[Images]]:
    """The class names (those given, or numbers: as many, or up to the largest label), and the images of every part.

    Args:
        where: the source; messages begin with it.
        classes: their number or their names.
        pixels: of each part, by the array's name; or its images without labels.
        labels: of each part in the same order, by the array's name.
        remedy: for labels that are more than there are images, besides others.

    Raises:
        CorralError: a label outside the classes or, where these are not given, not below the number of images; pixels
            that are no `Images`.
    """
    counted = classes is None
    if classes is None:
        classes, images = max(int(part.max()) for part in labels.values()) + 1, sum(map(len, labels.values()))
        if classes > images:
            raise CorralError(
                f"{where}: found label {classes - 1:,} among {images:,} images: more classes than images; count labels "
                f"from 0, leave out images without one, or {remedy}"
            )
    names = tuple(map(str, range(classes)) if isinstance(classes, int) else classes)
    for name, part in labels.items():
        check_labels(part, len(names), f"{where}: {name}")
    if counted:
        require_all_classes(torch.cat(list(labels.values())), names, where)
    parts = []
    for (name, x), y in zip(pixels.items(), labels.values(), strict=True):
        try:
            parts.append(x.labelled(y) if isinstance(x, Images) else Images(x, y))
        except CorralError as error:
            raise CorralError(f"{where}: {name}: {error}") from error
    return names, parts
