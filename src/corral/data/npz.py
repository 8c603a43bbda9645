"""A data set from one .npz file of images and labels."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from corral.data.images import DataSet, Images, check_labels
from corral.data.split import split_off_test
from corral.errors import CorralError

MAX_CHANNELS = 4
SPLIT_NAMES = ("train_images", "train_labels", "test_images", "test_labels")
WHOLE_NAMES = ("images", "labels")
OPTIONAL_NAMES = ("classes", "layout")
# What a damaged header asks for: another compression, a password, more memory than there is.
UNREADABLE = (NotImplementedError, RuntimeError, MemoryError)


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
    names = SPLIT_NAMES if any(name in arrays for name in SPLIT_NAMES) else WHOLE_NAMES
    absent = [name for name in names if name not in arrays]
    if absent:
        raise CorralError(
            f"{path}: found the arrays {', '.join(sorted(arrays)) or 'none'}; expected {', '.join(SPLIT_NAMES)}, "
            f"or {' and '.join(WHOLE_NAMES)}: add {', '.join(absent)}"
        )
    pixels = [_pixels(path, name, arrays) for name in names[::2]]
    labels = [_labels(path, name, arrays) for name in names[1::2]]
    classes = _classes(path, arrays, labels)
    for name, part in zip(names[1::2], labels, strict=True):
        check_labels(part, len(classes), f"{path}: {name}")
    parts = [_images(path, *part) for part in zip(names[::2], pixels, labels, strict=True)]
    note = f"arrays of {path.name}"
    ignored = sorted(set(arrays) - {*names, *OPTIONAL_NAMES})
    if ignored:
        note += f" without {', '.join(ignored)}"
    if len(parts) == 2:
        return DataSet(f"npz:{path}", classes, parts[0], parts[1], note=note)
    train, test, split = split_off_test(parts[0], str(path))
    return DataSet(f"npz:{path}", classes, train, test, note=f"{note}; {split}")


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here, because numpy leaves the file open where it is not a whole archive.
        with open(path, "rb") as stream:
            return _named_arrays(path, np.load(stream, allow_pickle=False))
    except OSError as error:
        raise CorralError(
            f"{path}: cannot be read ({error.strerror or error}); give the path of an .npz file"
        ) from error
    except (ValueError, EOFError, zipfile.BadZipFile, *UNREADABLE) as error:
        raise CorralError(f"{path}: truncated or not an .npz file; write it again with numpy.savez") from error


def _named_arrays(path: Path, content: object) -> dict[str, np.ndarray]:
    if not isinstance(content, NpzFile):
        raise CorralError(f"{path}: found a single array, expected an .npz file; write it with numpy.savez")
    arrays = {}
    with content:
        for name in content.files:
            try:
                arrays[name] = content[name]
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, *UNREADABLE) as error:
                raise CorralError(f"{path}: array {name} is damaged ({error}); write the file again") from error
            except ValueError as error:
                raise CorralError(
                    f"{path}: array {name} holds Python objects, which corral does not unpickle; "
                    "store numbers or strings"
                ) from error
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def _pixels(path: Path, name: str, arrays: dict[str, np.ndarray]) -> Tensor:
    """The images as (N, C, H, W) uint8 where every value is k / 255, else float32."""
    array = arrays[name]
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise CorralError(f"{path}: {name} is {array.dtype}, expected uint8 or floats in [0, 1]: convert it")
    if array.ndim == 3:
        array = array[:, None]
    elif _channels_last(path, name, array, str(arrays["layout"]) if "layout" in arrays else None):
        array = array.transpose(0, 3, 1, 2)
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
        # NaN and values outside [0, 1] stay floats here, and `Images` names them.
        levels = np.rint(np.clip(np.nan_to_num(array), 0, 1) * 255)
        # Half a unit in the last place of float32 near 1, the rounding of k / 255 stored in any float type.
        if levels.size and np.abs(levels / np.float32(255) - array).max() <= 2**-23:
            array = levels.astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(array))


def _channels_last(path: Path, name: str, array: np.ndarray, layout: str | None) -> bool:
    if array.ndim != 4:
        raise CorralError(
            f"{path}: {name} has the shape {array.shape}, expected (N, H, W), (N, H, W, C) or (N, C, H, W)"
        )
    if layout is not None:
        if layout not in ("NHWC", "NCHW"):
            raise CorralError(f"{path}: layout is {layout!r}, expected NHWC or NCHW")
        return layout == "NHWC"
    first, last = (1 <= array.shape[axis] <= MAX_CHANNELS for axis in (1, 3))
    if first == last:
        problem = "could be NHWC or NCHW" if first else f"has no axis of 1 to {MAX_CHANNELS} channels"
        raise CorralError(f'{path}: {name} of shape {array.shape} {problem}: add an array layout = "NHWC" or "NCHW"')
    return bool(last)


def _labels(path: Path, name: str, arrays: dict[str, np.ndarray]) -> Tensor:
    array = arrays[name]
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "iu" or array.ndim != 1 or not array.size:
        raise CorralError(
            f"{path}: {name} is {array.dtype} of shape {array.shape}, expected one whole number for each image"
        )
    return torch.from_numpy(array.astype(np.int64))


def _classes(path: Path, arrays: dict[str, np.ndarray], labels: list[Tensor]) -> tuple[str, ...]:
    """The names in `classes`, or the numbers up to the largest label."""
    if "classes" not in arrays:
        most, images = max(int(part.max()) for part in labels), sum(map(len, labels))
        if most >= images:
            raise CorralError(
                f"{path}: found label {most:,} among {images:,} images: more classes than images; count labels from 0, "
                "leave out images without one, or add the names of all classes as an array classes"
            )
        return tuple(map(str, range(most + 1)))
    names = arrays["classes"]
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise CorralError(f"{path}: classes is {names.dtype} of shape {names.shape}, expected a list of names")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names.tolist())


def _images(path: Path, name: str, pixels: Tensor, labels: Tensor) -> Images:
    try:
        return Images(pixels, labels)
    except CorralError as error:
        raise CorralError(f"{path}: {name}: {error}") from error
