"""Images that do not fit: they stay where they lie, and a batch is read when it is asked for."""

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corral.data.crops import Crop, Crops, cropped
from corral.data.images import Images, Needed, check_labels_fit
from corral.data.loading.workers import Workers
from corral.data.memory import VARIABLE, host_bytes
from corral.errors import CorralError

# Images that a process reads at once.
CHUNK = 16
# The share of memory that all images may take as floats where somebody asks for all.
AT_ONCE = 0.5
CPU = torch.device("cpu")


class Source(Protocol):
    """Images that are read one by one, in any process.

    Attributes:
        name: for messages.
        shape: (C, H, W) of an image.
        dtype: of its pixels, uint8 or float32.
        pictures: whether an image is a picture of which `read` can cut a part before it is made of its size.
    """

    name: str
    shape: tuple[int, int, int]
    dtype: torch.dtype
    pictures: bool

    def __len__(self) -> int: ...

    def read(self, index: int, crop: Crop | None = None) -> NDArray[Any]:
        """One image, (C, H, W); CorralError where it cannot be read."""

    def identity(self, rows: Tensor) -> str:
        """What the pixels of some rows follow from, without decoding them all: a key of what was found of them."""

    def files(self, rows: Tensor) -> str:
        """As `Images.files`, of some rows."""


class Request(NamedTuple):
    """Rows to be read, and the numbers of their random parts, (n, DRAWN), with the least share."""

    rows: list[int]
    numbers: list[list[float]] | None
    smallest: float


Asked = tuple[Tensor, Tensor | None]
"""Rows, (n,) int64 on the CPU, and the numbers of their random parts, (n, DRAWN), where pictures are to be cut."""


class Store(Protocol):
    """Where pixels lie; the attributes are as of `Source`."""

    name: str
    shape: tuple[int, int, int]
    dtype: torch.dtype
    pictures: bool

    def __len__(self) -> int: ...

    def read(self, asked: Asked, smallest: float) -> Tensor:
        """(n, C, H, W) on the CPU."""

    def ahead(self, asked: Iterable[Asked], smallest: float, device: torch.device) -> Iterator[Tensor]:
        """(n, C, H, W) on the device for each in turn, read before they are wanted."""

    def identity(self, rows: Tensor) -> str:
        """As `Source`."""

    def files(self, rows: Tensor) -> str:
        """As `Source`."""


class Reader:
    """A store whose images processes read from a source, in parts of `CHUNK`."""

    def __init__(self, source: Source) -> None:
        self.source, self.name, self.shape, self.dtype = source, source.name, source.shape, source.dtype
        self.pictures = source.pictures
        self.asked = self.workers(partial(_read, source), lasting=True)

    def __len__(self) -> int:
        return len(self.source)

    def workers(self, function: Callable[[Any], Any], *, pinned: bool = False, lasting: bool = False) -> Workers:
        """Processes for a function whose answers are about images of a request."""
        size = CHUNK * int(np.prod(self.shape)) * self.dtype.itemsize
        return Workers(function, what=self.name, result_bytes=size, pinned=pinned, lasting=lasting)

    def read(self, asked: Asked, smallest: float) -> Tensor:
        """As `Store`; its processes are kept for the next call."""
        return torch.cat(list(self.asked.map(_requests(asked, smallest))))

    def ahead(self, asked: Iterable[Asked], smallest: float, device: torch.device) -> Iterator[Tensor]:
        """As `Store`; at most `AHEAD` × `CHUNK` images a process are read before they are wanted."""
        counts: deque[int] = deque()

        def requests() -> Iterator[Request]:
            for one in asked:
                found = list(_requests(one, smallest))
                counts.append(len(found))
                yield from found

        answers = self.workers(partial(_read, self.source), pinned=device.type == "cuda").map(requests())
        for first in answers:
            parts = [first, *itertools.islice(answers, counts.popleft() - 1)]
            there = [part.to(device, non_blocking=True) for part in parts]
            yield there[0] if len(there) == 1 else torch.cat(there)

    def identity(self, rows: Tensor) -> str:
        """As `Source`."""
        return self.source.identity(rows)

    def files(self, rows: Tensor) -> str:
        """As `Source`."""
        return self.source.files(rows)


def _read(source: Source, request: Request) -> Tensor:
    """In a process: the images of a request."""
    found = torch.empty(len(request.rows), *source.shape, dtype=source.dtype)
    pixels, (height, width) = found.numpy(), source.shape[1:]
    for place, row in enumerate(request.rows):
        numbers = request.numbers and request.numbers[place]
        pixels[place] = source.read(row, Crop(numbers, request.smallest, (width, height)) if numbers else None)
    return found


def _requests(asked: Asked, smallest: float) -> Iterator[Request]:
    """Rows in parts; one part of none for no rows."""
    rows, numbers = asked
    for begin in range(0, max(len(rows), 1), CHUNK):
        part = slice(begin, begin + CHUNK)
        yield Request(rows[part].tolist(), None if numbers is None else numbers[part].tolist(), smallest)


class Held:
    """A store of pixels in the host's memory, for a device that has not the memory for them."""

    pictures = False

    def __init__(self, pixels: Tensor) -> None:
        channels, height, width = pixels.shape[1:]
        self.pixels, self.name = pixels, "images in the host's memory"
        self.shape, self.dtype = (channels, height, width), pixels.dtype

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, asked: Asked, smallest: float) -> Tensor:
        """As `Store`."""
        return self.pixels[asked[0]]

    def ahead(self, asked: Iterable[Asked], smallest: float, device: torch.device) -> Iterator[Tensor]:
        """As `Store`; a GPU computes while its next rows are copied."""
        for rows, _ in asked:
            found = self.pixels[rows]
            yield (found.pin_memory() if device.type == "cuda" else found).to(device, non_blocking=True)

    def identity(self, rows: Tensor) -> str:
        """None that is cheaper than the pixels."""
        return ""

    def files(self, rows: Tensor) -> str:
        """None."""
        return ""


class Streamed(Images):
    """Images that are read when they are asked for; all else is as of `Images`, but `pixels` are refused.

    Args:
        store: where the pixels lie.
        labels: (N,) int64, or None.
        rows: (N,) int64, which of the store's images these are; default all.
        device: where pixels are wanted, and labels lie.
        pictures: as of `Images`; where the store has pictures itself, they need not be named.

    Raises:
        CorralError: as `Images`, of the labels.
    """

    store: Store
    rows: Tensor

    def __init__(
        self,
        store: Store,
        labels: Tensor | None = None,
        rows: Tensor | None = None,
        device: torch.device | str = CPU,
        pictures: Images | None = None,
    ) -> None:
        place = torch.device(device)
        rows = torch.arange(len(store)) if rows is None else rows
        labels = None if labels is None else labels.to(place)
        check_labels_fit(labels, len(rows))
        facts = {"store": store, "rows": rows, "labels": labels, "place": place, "pictures": pictures}
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    @property
    def pixels(self) -> Tensor:
        """Refused: all of them are what does not fit."""
        raise CorralError(
            f"{self.store.name}: {len(self):,} images are streamed, for they would take more than their share of "
            f"memory: ask for some, stored(rows) or float(rows), or raise {VARIABLE}"
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.store.shape

    @property
    def device(self) -> torch.device:
        """Where pixels are given and labels lie."""
        place: torch.device = self.place  # type: ignore[attr-defined]
        return place

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored pixels."""
        return self.store.dtype

    @property
    def streamed(self) -> bool:
        """True, but for pixels that lie in the host's memory."""
        return not isinstance(self.store, Held)

    def identity(self) -> str:
        """A key of what the pixels and labels follow from."""
        key = self.store.identity(self.rows)
        labels = b"" if self.labels is None else self.labels.cpu().numpy().tobytes()
        return key and f"{key} {hashlib.sha256(labels).hexdigest()}"

    def files(self) -> str:
        """As `Images`."""
        return self.store.files(self.rows) if self.store.pictures else super().files()

    def stored(self, rows: Tensor | None = None, crops: Crops | None = None, needed: Needed | None = None) -> Tensor:
        """As `Images`, read now.

        Args:
            rows: (n,) int64 indices or an (N,) mask; default all.
            crops: take a random part of each image, for training.
            needed: which places of n images are needed, by n.

        Raises:
            CorralError: an image cannot be read, or all are asked for, which as floats would take half of the memory.
        """
        if rows is None:
            rows = torch.arange(len(self))
            if 4 * len(self) * int(np.prod(self.shape)) > AT_ONCE * host_bytes():
                raise CorralError(
                    f"{self.store.name}: {len(self):,} images of {self.shape} at once would take more than half "
                    "of the memory: measure on fewer (n=..., --n)"
                )
        batch = self._batch(rows, crops, needed)
        return self._completed(self.store.read(batch.asked, _smallest(crops)).to(self.device), batch, crops)

    def each(
        self, batches: Iterable[Tensor], crops: Crops | None = None, needed: Needed | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `Images`; the next batches are asked for, and read, before they are wanted.

        Args:
            batches: (n,) int64 indices each.
            crops: take a random part of each image, for training.
            needed: which places of n images are needed, by n.
        """
        waiting: deque[Batch] = deque()

        def asked() -> Iterator[Asked]:
            for indices in batches:
                waiting.append(self._batch(indices, crops, needed))
                yield waiting[-1].asked

        for pixels in self.store.ahead(asked(), _smallest(crops), self.device):
            batch = waiting.popleft()
            yield batch.indices, self._completed(pixels, batch, crops)

    def _batch(self, indices: Tensor, crops: Crops | None, needed: Needed | None) -> "Batch":
        """What is to be read of a batch."""
        chosen = self._chosen(indices)
        numbers = None if crops is None else crops.draw(len(chosen))
        places = list(range(len(chosen)) if needed is None else needed(len(chosen)))
        asked = chosen[places], None if numbers is None else numbers[places]
        return Batch(indices, len(chosen), places, asked)

    def _completed(self, pixels: Tensor, batch: "Batch", crops: Crops | None) -> Tensor:
        """The pixels of a whole batch, 0 where they are not needed; random parts of images that are no pictures."""
        _, numbers = batch.asked
        if numbers is not None and crops is not None and not self.store.pictures:
            pixels = cropped(pixels, numbers, crops.smallest)
        if len(batch.places) == batch.total:
            return pixels
        whole = pixels.new_zeros(batch.total, *pixels.shape[1:])
        whole[batch.places] = pixels
        return whole

    def take(self, rows: Tensor) -> Images:
        """The images and labels of `rows`, (n,) int64 indices or an (N,) mask; nothing is read."""
        labels = None if self.labels is None else self.labels[rows.to(self.labels.device)]
        return Streamed(self.store, labels, self._chosen(rows), self.device, self._pictures(rows))

    def labelled(self, labels: Tensor) -> Images:
        """The same images with (N,) labels."""
        return Streamed(self.store, labels, self.rows, self.device, self.pictures)

    def to(self, device: torch.device | str) -> Images:
        """The same images, whose pixels are given on `device`."""
        pictures = None if self.pictures is None else self.pictures.to(device)
        return Streamed(self.store, self.labels, self.rows, device, pictures)

    def behind(self, other: Images) -> Images:
        """These and, behind them, others of the same store, without labels.

        Args:
            other: the images that come after these.

        Raises:
            CorralError: the others lie elsewhere.
        """
        if not isinstance(other, Streamed) or other.store is not self.store:
            raise CorralError(f"{self.store.name}: streamed images cannot be joined with those of another source")
        return Streamed(self.store, None, torch.cat([self.rows, other.rows]), self.device)

    def _pictures(self, rows: Tensor) -> Images | None:
        return None if self.pictures is None else self.pictures.take(rows)

    def _chosen(self, rows: Tensor) -> Tensor:
        return self.rows[rows.to(self.rows.device)]


class Batch(NamedTuple):
    """Images that somebody asked for: their indices, how many they are, and the places of those that are read."""

    indices: Tensor
    total: int
    places: list[int]
    asked: Asked


def _smallest(crops: Crops | None) -> float:
    return 1.0 if crops is None else crops.smallest
