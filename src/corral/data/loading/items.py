"""Map-style data sets read item by item: torch's, Hugging Face's, and whatever has a length and gives items."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from corral.data.crops import Crop
from corral.data.loading.arrays import MAX_CHANNELS, Layout, as_array, as_pixels, check_pixel_type
from corral.data.loading.fit import AS_STORED, Fit
from corral.data.loading.memmap import allocate
from corral.data.loading.pictures import GRAY_MODES, picture_pixels, require_still
from corral.errors import CorralError, UsageError
from corral.reading import first_line

T = TypeVar("T")
Columns = tuple[str, str]
# Where the images and the labels of items that are dictionaries are looked for.
IMAGES, LABELS = ("image", "img", "pixel_values", "x"), ("label", "labels", "fine_label", "y")
# Items that are read a second time, to find random transforms; columns that a message names.
AGAIN, NAMED = 8, 12


class MapStyle(Protocol):
    """What has a length and gives an item by its number, such as a map-style `torch.utils.data.Dataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


def read_items(
    where: str, items: MapStyle, *, columns: Columns | None = None, layout: Layout | None = None, fit: Fit = AS_STORED
) -> tuple[Tensor, Tensor, tuple[str, ...] | None]:
    """All images and labels of a map-style data set.

    An item is (image, label), or a dictionary of columns. An image is a Pillow picture; or a tensor or an array, uint8
    or floats in [0, 1], of shape (H, W), (C, H, W) or (H, W, C): the channels are the axis of 1 to 4, and where both
    could be a tensor is (C, H, W), an array (H, W, C). A label is a whole number, or a tensor or an array of one.

    Args:
        where: what messages begin with.
        items: read in order, once; some are read again to find what is random.
        columns: the names of the images' and the labels' column; default one of `IMAGES` and one of `LABELS`.
        layout: of tensors and arrays of rank 3, where their axes do not say it.
        fit: how Pillow's pictures are turned and made one size.

    Returns:
        (N, C, H, W) pixels as `as_pixels` makes them, (N,) int64 labels, and the names of the classes where the data
        set has them.

    Raises:
        UsageError: columns that are not there, or could be several; a size for images that are no pictures.
        CorralError: names the item, what was found and what was expected.
    """
    count = answered(where, "its length", lambda: len(items))
    if not count:
        raise CorralError(f"{where}: has no images")
    names = getattr(items, "column_names", None)
    if isinstance(names, list | tuple):
        columns = columns_of(where, names, columns)
    buffer, labels = Buffer(where, count, layout, fit), []
    for index in range(count):
        image, label = item_of(where, items, index, columns)
        buffer.put(index, image)
        labels.append(label_of(f"{where}: label of item {index}", label))
    for index in range(0, count, -(-count // AGAIN)):
        if not buffer.holds(index, item_of(where, items, index, columns)[0]):
            raise CorralError(
                f"{where}: item {index} is another image when it is read again: give the data set without random "
                "transforms (a recipe augments by data.crop and data.flip)"
            )
    classes = answered(where, "its classes", lambda: class_names(items, None if columns is None else columns[1]))
    return buffer.result(), torch.tensor(labels), classes


def class_names(items: object, column: str | None = None) -> tuple[str, ...] | None:
    """The names in a Hugging Face-style label column, or in the attribute `classes`, also below a `Subset`."""
    features = getattr(items, "features", None)
    if column is not None and isinstance(features, Mapping):
        names = getattr(features.get(column), "names", None)
    else:
        while not hasattr(items, "classes") and hasattr(items, "dataset"):
            items = items.dataset
        names = getattr(items, "classes", None)
    if not isinstance(names, list | tuple) or not names:
        return None
    # torchvision's ImageNet has several words for each class.
    words = [", ".join(map(str, name)) if isinstance(name, list | tuple) else name for name in names]
    return tuple(words) if all(isinstance(word, str) for word in words) else None


class Buffer:
    """The images so far: as uint8, or as float32 where they are floats."""

    def __init__(self, where: str, count: int, layout: Layout | None, fit: Fit) -> None:
        self.where, self.count, self.layout, self.fit = where, count, layout, fit
        self.pixels: NDArray[Any] = np.empty(0)
        self.pictures = self.gray = False

    def put(self, index: int, image: object) -> None:
        """Take the next image, which must be like the first; a gray picture may stand among those in colour."""
        if index == 0:
            first = self.first(image)
            kind = np.uint8 if first.dtype == np.uint8 else np.float32
            self.pixels = allocate((self.count, *first.shape), kind)
        elif self.gray and isinstance(image, Image.Image) and image.mode not in GRAY_MODES:
            gray, self.gray = self.pixels, False
            self.pixels = allocate((self.count, 3, *gray.shape[2:]))
            self.pixels[:index] = gray[:index]
        self.pixels[index] = self.array(index, image)

    def first(self, image: object) -> NDArray[Any]:
        """The first image, which says of what kind all are, as `array` gives it."""
        self.pictures = isinstance(image, Image.Image)
        self.gray = self.pictures and getattr(image, "mode", "") in GRAY_MODES
        return self.array(0, image)

    def holds(self, index: int, image: object) -> bool:
        """Whether this is the image that was taken."""
        kept, found = self.pixels[index], self.array(index, image)
        return np.array_equal(kept, found.astype(kept.dtype), equal_nan=kept.dtype != np.uint8)

    def array(self, index: int, image: object, crop: Crop | None = None) -> NDArray[Any]:
        """An image as (C, H, W), of the shape and kind of those before it; of a picture a random part, made so."""
        place = f"{self.where}: item {index}"
        if isinstance(image, Image.Image) != self.pictures:
            raise CorralError(
                f"{place}: found {type(image).__name__}, item 0 is of another kind: make all images alike"
            )
        if isinstance(image, Image.Image):
            require_still(place, image)
            found = picture_pixels(place, image, 1 if self.gray else 3, self.fit, remedy="replace it", crop=crop)
        else:
            found = self._values(place, image)
        expected = self.pixels.shape[1:]
        if expected and found.shape != expected:
            remedy = "corral.data.own(data, size=N) resizes and crops pictures to N×N"
            if not self.pictures:
                remedy = "make all images of one shape, by a transform of the data set"
            raise CorralError(f"{place}: found (C, H, W) = {found.shape}, item 0 has {expected}: {remedy}")
        if expected and (found.dtype == np.uint8) != (self.pixels.dtype == np.uint8):
            raise CorralError(f"{place}: found {found.dtype}, item 0 is {self.pixels.dtype}: make all images one type")
        return found

    def result(self) -> Tensor:
        """(N, C, H, W) of all images."""
        if self.pictures:
            return torch.from_numpy(self.pixels)
        return as_pixels(f"{self.where}: images", self.pixels, layout="NCHW")

    def _values(self, place: str, image: object) -> NDArray[Any]:
        """A tensor, an array or nested lists as (C, H, W)."""
        if self.fit != AS_STORED:
            raise UsageError(
                f"{place}: size, resize and upright are for Pillow's pictures, found {type(image).__name__}: resize it "
                "by a transform of the data set"
            )
        found = as_array(place, image)
        check_pixel_type(place, found)
        if found.ndim == 2:
            return found[None]
        if found.ndim != 3:
            raise CorralError(f"{place} has the shape {found.shape}, expected (H, W), (C, H, W) or (H, W, C)")
        if self.layout is None:
            first, last = (1 <= found.shape[axis] <= MAX_CHANNELS for axis in (0, 2))
            if not first and not last:
                raise CorralError(f"{place} of shape {found.shape} has no axis of 1 to {MAX_CHANNELS} channels")
            self.layout = "NCHW" if first and (not last or isinstance(image, Tensor)) else "NHWC"
        return found if self.layout == "NCHW" else found.transpose(2, 0, 1)


def answered(where: str, what: str, call: Callable[[], T]) -> T:
    """What a foreign data set answers."""
    try:
        return call()
    except Exception as error:  # whatever its code raises
        raise CorralError(f"{where}: {what} failed ({type(error).__name__}: {first_line(error)})") from error


def item_of(where: str, items: MapStyle, index: int, columns: Columns | None) -> tuple[object, object]:
    """The image and the label of an item."""
    found: Any = answered(where, f"item {index}", lambda: items[index])
    if isinstance(found, Mapping):
        image, label = columns or columns_of(where, list(found), None)
        if image not in found or label not in found:
            columns_of(where, list(found), (image, label))
        return _typed(found[image], getattr(items, "features", None), image), found[label]
    if isinstance(found, tuple | list) and len(found) == 2:
        return found[0], found[1]
    words = f"{len(found)} things" if isinstance(found, tuple | list) else type(found).__name__
    raise CorralError(f"{where}: item {index} is {words}, expected (image, label), or a dictionary with both")


def _typed(image: object, features: object, column: str) -> object:
    """Nested lists, as Hugging Face's columns of arrays give them, as an array of the type that the column states."""
    if not isinstance(image, list) or not isinstance(features, Mapping):
        return image
    feature: Any = features.get(column)
    while hasattr(feature, "feature"):
        feature = feature.feature
    stated = getattr(feature, "dtype", None)
    if stated not in ("uint8", "float16", "float32", "float64"):
        return image
    try:
        return np.asarray(image, stated)
    except (TypeError, ValueError, OverflowError):  # no such array: who reads it next says so
        return image


def columns_of(where: str, names: Sequence[object], columns: Columns | None) -> Columns:
    """The images' and the labels' column: those named, or the only ones that are known."""
    listed = ", ".join(map(str, names[:NAMED])) + (" ..." if len(names) > NAMED else "")
    if columns is not None:
        absent = [column for column in columns if column not in names]
        if absent:
            raise UsageError(f"{where}: no column {absent[0]!r}; its columns are {listed}")
        return columns
    images, labels = ([name for name in known if name in names] for known in (IMAGES, LABELS))
    if len(images) != 1 or len(labels) != 1:
        what = "images" if len(images) != 1 else "labels"
        raise UsageError(
            f"{where}: which column holds the {what} is not plain among {listed}: name both, as in "
            "corral.data.own(data, columns=('photo', 'species'))"
        )
    return images[0], labels[0]


def label_of(where: str, value: object) -> int:
    """A whole number, or the one in a tensor or an array."""
    found = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    if found.size != 1 or found.dtype.kind not in "iu":
        words = f"an array of shape {found.shape}" if found.size != 1 else f"{type(value).__name__} ({found.dtype})"
        remedy = "; number the classes (a Hugging Face data set: class_encode_column)" if isinstance(value, str) else ""
        raise CorralError(f"{where} is {words}, expected one whole number{remedy}")
    return int(found.item())
