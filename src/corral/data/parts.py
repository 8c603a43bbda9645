"""The parts of data that were given as objects: what they are, and one line where they are no data."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from corral.data.split import TEST_PARTS
from corral.errors import UsageError, shortened

EXPECTED = (
    "(x, y), (x_train, y_train, x_test, y_test), a torch or Hugging Face data set, a pair (train, test) or a "
    "dictionary of them by name, or a corral.data.DataSet"
)
# What has items by number, or seems to, and is no data set of images.
NO_ITEMS = (Tensor, IterableDataset, DataLoader, Mapping, Sequence)
# Letters of a key that a message quotes, and how many keys.
MOST, KEYS = 40, 8


class WrongDataError(UsageError):
    """What was given is no data; `words` say what it is."""

    def __init__(self, words: str, details: str = "") -> None:
        super().__init__(f"data: found {words}{details}, expected a data set's name, {EXPECTED}")
        self.words = words


def parts_of(data: Any) -> dict[str, Any]:
    """The parts of data by name, one that stands alone as ""; each a pair of arrays or a map-style data set.

    Raises:
        WrongDataError: no data.
    """
    if isinstance(data, Mapping):
        parts = {str(key): part for key, part in data.items() if _is_part(part)}
        if len(parts) == len(data) and ("train" in parts or set(parts) & set(TEST_PARTS) or len(parts) == 1):
            return parts
    elif isinstance(data, tuple | list):
        if len(data) == 4:
            return {"train": data[:2], "test": data[2:]}
        if len(data) == 2 and all(map(_is_part, data)):
            return {"train": data[0], "test": data[1]}
        if len(data) == 2 and _is_array(data[0]):
            return {"": data}
    elif _is_map_style(data):
        return {"": data}
    raise WrongDataError(named(data), _details(data))


def count_of(part: Any) -> int:
    """The number of images of a part."""
    return len(part[0] if isinstance(part, tuple | list) else part)


def _is_part(part: Any) -> bool:
    """Whether this is a map-style data set, or a pair of arrays of images and labels."""
    if isinstance(part, tuple | list):
        ranks = [getattr(values, "ndim", None) for values in part]
        return len(ranks) == 2 and ranks[0] in (3, 4) and ranks[1] in (1, 2)
    return _is_map_style(part)


def _is_map_style(part: Any) -> bool:
    if isinstance(part, NO_ITEMS) or hasattr(part, "__array__"):
        return False
    return hasattr(type(part), "__len__") and hasattr(type(part), "__getitem__")


def _is_array(values: Any) -> bool:
    return isinstance(values, Tensor | list | tuple) or hasattr(values, "__array__")


def is_listed(values: Any) -> bool:
    """Whether these are images one by one, which may be of several modes or sizes."""
    return isinstance(values, list | tuple) and len(values) > 0 and isinstance(values[0], Tensor | Image.Image)


def named(data: Any) -> str:
    """What data are, in a word or two."""
    return f"{len(data)} things" if isinstance(data, tuple | list) else type(data).__name__


def _details(data: Any) -> str:
    """What else a message says of data that are none."""
    if isinstance(data, Mapping):
        streamed = next((part for part in data.values() if _is_streamed(part)), None)
        if streamed is not None:
            return f" of {named(streamed)}{_details(streamed)}"
        keys = ", ".join(shortened(str(key), MOST) for key in list(data)[:KEYS])
        return f" with the keys {keys}{' ...' if len(data) > KEYS else ''}"
    if isinstance(data, tuple | list):
        return f" ({', '.join(type(one).__name__ for one in data[:KEYS])}{' ...' if len(data) > KEYS else ''})"
    if isinstance(data, Tensor) or hasattr(data, "__array__"):
        return f" of shape {tuple(getattr(data, 'shape', ()))} without labels"
    if isinstance(data, PathLike):
        return " (a path is written folder:PATH or npz:PATH)"
    if isinstance(data, DataLoader):
        return " (give its data set, loader.dataset)"
    if _is_streamed(data):
        return " (it has no length or no items by number: load it without streaming)"
    return " (give what it returns)" if callable(data) else ""


def _is_streamed(data: Any) -> bool:
    """Whether items come one after another alone, or nobody knows how many."""
    iterated = hasattr(type(data), "__iter__") and not hasattr(type(data), "__getitem__")
    return not _is_map_style(data) and (isinstance(data, Dataset) or iterated)
