"""Map-style data sets as images: read at once, or streamed where all pixels would take too much memory."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from corral.data.crops import Crop
from corral.data.images import Images
from corral.data.loading.arrays import Layout, as_floats, as_pixels
from corral.data.loading.fit import AS_STORED, Fit
from corral.data.loading.items import (
    AGAIN,
    Buffer,
    Columns,
    MapStyle,
    answered,
    class_names,
    columns_of,
    item_of,
    label_of,
    read_items,
)
from corral.data.loading.pictures import GRAY_MODES
from corral.data.memory import VARIABLE, too_many
from corral.data.streamed import Reader, Streamed
from corral.distributed import ranks
from corral.errors import CorralError
from corral.progress import Progress

# Items whose labels are compared with those stated, and whose pixels stand for all; items that a process reads at once.
SAMPLED, READ = 256, 64


class Items:
    """A map-style data set as a source of images, each of which is asked for and made an image when it is read.

    Args:
        where: what messages begin with.
        items: the data set.
        columns: of items that are dictionaries.
        layout, fit: as `read_items` takes them.

    Raises:
        UsageError, CorralError: as `read_items`, of item 0.
    """

    def __init__(self, where: str, items: MapStyle, columns: Columns | None, layout: Layout | None, fit: Fit) -> None:
        self.name, self.items, self.columns = where, items, columns
        self.buffer = Buffer(where, len(items), layout, fit)
        image, _ = item_of(where, items, 0, columns)
        first = self.buffer.first(image)
        self.pictures, self.given = self.buffer.pictures, first.dtype
        self.dtype = torch.uint8 if first.dtype == np.uint8 else as_pixels(where, first[None], layout="NCHW").dtype
        self.expect(first.shape)

    def expect(self, shape: Sequence[int]) -> None:
        """Of which (C, H, W) every image must be."""
        channels, height, width = shape
        self.shape = (channels, height, width)
        self.buffer.pixels = np.empty((0, *shape), np.uint8 if self.given == np.uint8 else np.float32)

    def colour(self) -> None:
        """Make all images colour: gray pictures stand among those in colour."""
        self.buffer.gray = False
        self.expect((3, *self.shape[1:]))

    def __len__(self) -> int:
        return self.buffer.count

    def read(self, index: int, crop: Crop | None = None) -> NDArray[Any]:
        """As `Source`.

        Raises:
            CorralError: names the item that is no such image.
        """
        image, _ = item_of(self.name, self.items, index, self.columns)
        found = self.buffer.array(index, image, crop)
        if self.given == np.uint8:
            return found
        place = f"{self.name}: item {index}"
        pixels = as_pixels(place, found[None], layout="NCHW")
        if self.dtype == torch.uint8 and pixels.dtype != torch.uint8:
            raise CorralError(
                f"{place}: has other values than k/255, item 0 has not: streamed images are all of 256 levels or none; "
                f"give uint8, or raise {VARIABLE} so that they are not streamed"
            )
        if self.dtype == torch.uint8:
            return np.asarray(pixels[0].numpy())
        floats = as_floats(found)
        Images(torch.from_numpy(floats)[None])  # which refuses what is not in [0, 1]
        return floats

    def identity(self, rows: Tensor) -> str:
        """Of the kind of data set, how many there are, and the pixels of 256 of them, evenly spread.

        A data set whose other images alone changed is taken for what it was.
        """
        kind = f"{type(self.items).__module__}.{type(self.items).__qualname__} {PIL.__version__}"
        digest = hashlib.sha256(f"{kind} {len(rows)} {self.shape} {self.dtype} {self.buffer.fit}".encode())
        for row in rows[:: max(1, len(rows) // SAMPLED)].tolist():
            digest.update(b"%d" % row)
            digest.update(np.ascontiguousarray(self.read(row)).data)
        return digest.hexdigest()

    def files(self, rows: Tensor) -> str:
        """None: what the items lie in is theirs."""
        return ""


def images_of_items(
    where: str, items: MapStyle, columns: Columns | None, layout: Layout | None, fit: Fit = AS_STORED
) -> tuple[Images, Tensor, tuple[str, ...] | None]:
    """The images of a map-style data set without their labels, (N,) labels, and its classes' names where it has them.

    Images that would take more than their share of memory are streamed. Then labels are those that the data set states,
    in a column of its own or as `targets` (torchvision's), where 256 items have the same; of others all items are read
    once for them.

    Args:
        where, items, columns, layout, fit: as `read_items`.

    Raises:
        UsageError, CorralError: as `read_items`.
    """
    count = answered(where, "its length", lambda: len(items))
    names = getattr(items, "column_names", None)
    if count and isinstance(names, list | tuple):
        columns = columns_of(where, names, columns)
    source = Items(where, items, columns, layout, fit) if count else None
    if source is None or not too_many(count * int(np.prod(source.shape))):
        pixels, labels, classes = read_items(where, items, columns=columns, layout=layout, fit=fit)
        if source is None or not source.pictures:
            return Images(pixels), labels, classes
        if len(source.shape) and pixels.shape[1] != source.shape[0]:
            source.colour()
        return Images(pixels, pictures=Streamed(Reader(source))), labels, classes
    _check_again(source)
    found = _stated_labels(source)
    if found is None or source.buffer.gray:
        found, gray = _looked_through(source)
        if source.buffer.gray and not gray:
            source.colour()
    classes = answered(where, "its classes", lambda: class_names(items, None if columns is None else columns[1]))
    return Streamed(Reader(source)), found, classes


def _check_again(source: Items) -> None:
    """Refuse images that are random, or uint8 of 0 and 1 alone, by some of them."""
    largest = 0.0
    rows = range(0, len(source), -(-len(source) // AGAIN))
    for index in rows:
        once, again = source.read(index), source.read(index)
        if not np.array_equal(once, again):
            raise CorralError(
                f"{source.name}: item {index} is another image when it is read again: give the data set without random "
                "transforms (a recipe augments by data.crop, data.random_resized_crop and data.flip)"
            )
        largest = max(largest, float(once.max()))
    if source.given == np.uint8 and not source.pictures and largest == 1:
        raise CorralError(
            f"{source.name}: images are uint8 of 0 and 1 alone, almost black where 255 is white: multiply them by 255"
        )


def _stated_labels(source: Items) -> Tensor | None:
    """(N,) labels that the data set states beside its images, if some of its items have the same; else None."""
    items: Any = source.items
    values: Iterable[Any] | None = _targets(items)
    if source.columns is not None and hasattr(items, "select_columns"):
        column = source.columns[1]
        values = (row[column] for row in answered(source.name, "a column", lambda: items.select_columns([column])))
    if values is None:
        return None
    found = [label_of(f"{source.name}: label of item {index}", value) for index, value in enumerate(values)]
    if len(found) != len(source):
        return None
    for index in range(0, len(found), max(1, len(found) // SAMPLED)):
        _, label = item_of(source.name, items, index, source.columns)
        if label_of(f"{source.name}: label of item {index}", label) != found[index]:
            return None
    return torch.tensor(found)


def _targets(items: Any) -> Sequence[Any] | None:
    """What torchvision's data sets have, also below a `Subset`; None without."""
    targets = getattr(items, "targets", None)
    if targets is None and hasattr(items, "dataset") and hasattr(items, "indices"):
        inner = _targets(items.dataset)
        return None if inner is None else [inner[index] for index in items.indices]
    return list(targets) if isinstance(targets, Tensor | list | tuple | np.ndarray) else None


def _looked_through(source: Items) -> tuple[Tensor, bool]:
    """(N,) labels of all items, each of which is read, and whether all are gray pictures."""

    def requests() -> Iterator[range]:
        for begin in range(0, len(source), READ):
            yield range(begin, min(begin + READ, len(source)))

    labels: list[int] = []
    gray = True
    with Progress(f"{source.name}: labels", len(source), "items", enabled=ranks.is_first()) as bar:
        for found, all_gray in Reader(source).workers(partial(_look, source)).map(requests()):
            labels += found
            gray = gray and all_gray
            bar.advance(len(found))
    return torch.tensor(labels), gray


def _look(source: Items, rows: range) -> tuple[list[int], bool]:
    """In a process: the labels of some items, and whether all are gray pictures."""
    labels, gray = [], True
    for index in rows:
        image, label = item_of(source.name, source.items, index, source.columns)
        labels.append(label_of(f"{source.name}: label of item {index}", label))
        gray = gray and isinstance(image, Image.Image) and image.mode in GRAY_MODES
    return labels, gray
