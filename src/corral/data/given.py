"""Data given as objects: arrays, torch's and Hugging Face's data sets, pairs and dictionaries of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from corral.data.images import DataSet, Images, check_labels, fingerprint_of, readable
from corral.data.loading.arrays import (
    MOST_CLASSES,
    Layout,
    as_array,
    as_labels,
    as_pixels,
    check_stated,
    from_arrays,
    labelled_parts,
    layout_by_channels,
    layout_of,
)
from corral.data.loading.fit import AS_STORED, Fit
from corral.data.loading.items import Columns, MapStyle
from corral.data.loading.own_items import images_of_items
from corral.data.parts import count_of, is_listed, named, parts_of
from corral.data.split import TEST_PARTS, split_off_test
from corral.errors import CorralError, UsageError
from corral.files import as_text

# Before the name of data that were given as an object: it is in no registry, and no file is at it.
OWN = "own/"
STATE = "name the classes: corral.data.own(data, classes=...)"


@dataclass(frozen=True, eq=False)
class Measured:
    """Labelled images to measure on, and where they come from.

    Attributes:
        name: of the data set.
        classes: the class names; label c is `classes[c]`.
        test: the images, in the order of the source.
        note: what a reader should know of the source.
        fingerprint: of the data set that they are the test part of, or of these images where there is none.
    """

    name: str
    classes: tuple[str, ...]
    test: Images
    note: str
    fingerprint: str


@dataclass(frozen=True, eq=False)
class OnePart:
    """Labelled images with no test part beside them, in their order: measured on as a whole, or split for training.

    Attributes:
        name: "own/..." for data given as an object.
        images: all of them.
        classes: their number or names; None for the numbers up to the largest label.
        note: what a reader should know of the source.
    """

    name: str
    images: Images
    classes: int | tuple[str, ...] | None
    note: str

    @cached_property
    def data_set(self) -> DataSet:
        """The images for training: a fixed stratified fifth is the test part, as of a folder without one.

        Raises:
            CorralError: a class without an image, a label outside the classes, fewer than 2 classes, or too few images.
        """
        known = {"x": self.images}, {"y": self._labels}
        classes, (images,) = labelled_parts(self.name, self.classes, *known, remedy=STATE)
        train, test, split = split_off_test(images, self.name)
        return readable(DataSet(self.name, classes, train, test, note=f"{self.note}; {split}", split_off=True))

    @cached_property
    def measured(self) -> Measured:
        """All images, in their order; a class may be absent.

        Raises:
            CorralError: a label outside the classes, or too large to be one.
        """
        count = max(int(self._labels.max()), 0) + 1 if self.classes is None else self.classes
        if isinstance(count, int) and count > MOST_CLASSES:
            raise CorralError(
                f"{self.name}: y: found label {count - 1:,}, expected numbers from 0 on: number the classes"
            )
        classes = tuple(map(str, range(count))) if isinstance(count, int) else count
        check_labels(self._labels, len(classes), f"{self.name}: y")
        note = f"{self.note}; all {len(self.images):,} images"
        return Measured(self.name, classes, self.images, note, fingerprint_of(self.images))

    @property
    def _labels(self) -> Tensor:
        assert self.images.labels is not None
        return self.images.labels


# What every `data=` takes, and a function named by "file.py:function" may return but for the name.
AnyData = str | DataSet | OnePart | MapStyle | Dataset[Any] | Mapping[str, Any]


def own(
    data: Any,
    *,
    name: str | None = None,
    columns: Columns | None = None,
    classes: int | Sequence[str] | None = None,
    layout: Layout | None = None,
    size: int | None = None,
    resize: int | None = None,
    upright: bool = False,
) -> DataSet | OnePart:
    """Read data of your own with what they do not say themselves; every `data=` takes the result.

    Args:
        data: (x, y) or (x_train, y_train, x_test, y_test), tensors, arrays or lists as `from_arrays` takes them; a
            map-style torch data set of (image, label); a Hugging Face-style one, of columns; a pair (train, test) of
            such, also ((x_train, y_train), (x_test, y_test)); or a dictionary of such by "train" and "test", "val",
            "valid" or "validation". `corral.data.loading.items.read_items` says what an item may be.
        name: what runs and records call the data, after "own/"; default the kind of object.
        columns: the names of the images' and the labels' column, of items that are dictionaries; default one of image,
            img, pixel_values, x and one of label, labels, fine_label, y.
        classes: their number or names; default those that the data set has, or the numbers up to the largest label.
        layout: of tensors and arrays whose axes do not say it.
        size: Pillow's pictures are resized, their shorter side to this, and the middle square is cut out.
        resize: what the shorter side is resized to instead.
        upright: turn pictures as an orientation noted in them (EXIF) says.

    Returns:
        A `DataSet` of data with a training and a test part. Otherwise a `OnePart`, measured on as a whole; training
        splits a fixed stratified fifth of it off.

    Raises:
        UsageError: no data, or options that do not fit them.
        CorralError: names the part and the image, what was found and what was expected.
    """
    if isinstance(data, str | DataSet | OnePart):
        raise UsageError(f"own reads data of yours; a {type(data).__name__} goes to data= as it is")
    check_stated(classes, layout)
    two = isinstance(columns, list | tuple) and len(columns) == 2 and all(isinstance(key, str) for key in columns)
    if columns is not None and not two:
        raise UsageError("columns must be two names, as in columns=('image', 'label')")
    called = own_name(data) if name is None else f"{OWN}{as_text(str(name)).removeprefix(OWN)}"
    chosen = classes if classes is None or isinstance(classes, int) else tuple(classes)
    return read_given(data, called, columns=columns, classes=chosen, layout=layout, fit=Fit(size, resize, upright))


def is_own(name: str) -> bool:
    """Whether a name is that of data given as an object."""
    return name.startswith(OWN)


def own_name(data: object) -> str:
    """What data given as an object are called: after their first part, "own/arrays" or "own/" and the class's name.

    Raises:
        WrongDataError: no data.
    """
    first = next(iter(parts_of(data).values()))
    if isinstance(first, tuple | list):
        return f"{OWN}arrays"
    info = getattr(first, "info", None)  # of a Hugging Face data set
    stated = getattr(info, "dataset_name", None) or getattr(info, "builder_name", None)
    return f"{OWN}{as_text(stated if isinstance(stated, str) else type(first).__name__)}"


def read_given(
    data: object,
    name: str,
    *,
    columns: Columns | None = None,
    classes: int | tuple[str, ...] | None = None,
    layout: Layout | None = None,
    shape: tuple[int, int, int] | None = None,
    fit: Fit = AS_STORED,
    note: str | None = None,
) -> DataSet | OnePart:
    """Data of any kind but a name; arguments as `own`, `shape` and `note` as `from_arrays`.

    Raises:
        WrongDataError: no data.
        CorralError: as `own`.
    """
    if isinstance(data, DataSet | OnePart):
        return data if data.name == name else replace(data, name=name)
    parts = parts_of(data)
    chosen = [part for part in ("train", *TEST_PARTS) if part in parts][:2] or list(parts)
    if "train" not in chosen:
        chosen = chosen[:1]
    left = "".join(
        f"; images of {part} ignored: {count_of(found):,}, {chosen[-1]} is used"
        for part, found in parts.items()
        if part not in chosen
    )
    pairs = [parts[part] for part in chosen if isinstance(parts[part], tuple | list)]
    arrays = [pair for pair in pairs if not is_listed(pair[0])]
    if arrays and (columns is not None or fit != AS_STORED):
        raise UsageError(f"{name}: arrays have no columns, and no pictures to resize or turn: leave these options out")
    words = (note or ("arrays" if pairs else type(parts[chosen[0]]).__name__)) + fit.note + left
    if len(arrays) == 2:
        (x, y), (x_test, y_test) = arrays
        return from_arrays(x, y, x_test, y_test, name=name, classes=classes, shape=shape, layout=layout, note=words)
    read = {}
    for part in chosen:
        where = f"{name}: {part}" if len(chosen) > 1 else name
        read[part] = _read_part(where, parts[part], columns, layout, shape, fit)
    stated = {names: part for part, (_, _, names) in read.items() if names is not None}
    if len(stated) > 1 and classes is None:
        raise CorralError(f"{name}: the classes of {' and '.join(stated.values())} have different names: {STATE}")
    known = classes if classes is not None else next(iter(stated), None)
    if len(read) == 1:
        ((pixels, labels, _),) = read.values()
        return _one_part(name, pixels, labels, known, words)
    pixels_of, labels_of = {part: x for part, (x, _, _) in read.items()}, {part: y for part, (_, y, _) in read.items()}
    known, (train, test) = labelled_parts(name, known, pixels_of, labels_of, remedy=STATE)
    return readable(DataSet(name, known, train, test, note=words))


def _one_part(
    name: str, pixels: Tensor | Images, labels: Tensor, classes: int | tuple[str, ...] | None, note: str
) -> OnePart:
    """One part, whose name stands before what is wrong with its images."""
    try:
        images = pixels.labelled(labels) if isinstance(pixels, Images) else Images(pixels, labels)
        return OnePart(name, images, classes, note)
    except CorralError as error:
        raise CorralError(f"{name}: {error}") from error


@dataclass(frozen=True)
class _Zipped:
    """Lists of images and labels as a map-style data set."""

    x: Sequence[Any]
    y: Sequence[Any]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.x[index], self.y[index]


def _read_part(
    where: str,
    part: Any,
    columns: Columns | None,
    layout: Layout | None,
    shape: tuple[int, int, int] | None,
    fit: Fit,
) -> tuple[Tensor | Images, Tensor, tuple[str, ...] | None]:
    """(N, C, H, W) pixels or images, (N,) labels, and the names of the classes where the part has them."""
    if not isinstance(part, tuple | list):
        return images_of_items(where, part, columns, layout, fit)
    x, y = part
    if is_listed(x):
        if not hasattr(y, "__len__") or not getattr(y, "ndim", 1) or len(x) != len(y):
            raise CorralError(f"{where}: found {len(x)} images and {named(y)} as labels, expected one label for each")
        return images_of_items(where, _Zipped(x, y), None, layout, fit)
    array = as_array(f"{where}: x", x)
    if layout is None and array.ndim == 4:
        place, remedy = f"{where}: x", 'say it, corral.data.own(data, layout="NHWC") or "NCHW"'
        if shape is not None:
            layout = layout_of(place, array, shape)
        else:
            layout = layout_by_channels(place, array, x, remedy=remedy)
    pixels = as_pixels(f"{where}: x", array, layout=layout)
    labels = as_labels(f"{where}: y", as_array(f"{where}: y", y))
    return pixels, labels, None
