"""Images with their labels, and a data set of them: what every other part of corral reads."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from corral.data.crops import Crops, cropped
from corral.data.loading.known import known
from corral.data.loading.memmap import rows_of, stacked
from corral.data.memory import too_many
from corral.errors import CorralError
from corral.files import as_text
from corral.notebook import Shown
from corral.progress import Progress

# Images without labels whose bytes are in their fingerprint, at most.
SAMPLED = 1000
# Classes that a message names.
NAMED = 3
# Of a batch of n images the places of those that are needed.
Needed = Callable[[int], Sequence[int]]
# Streamed images whose bytes are counted at once.
CHUNK = 16
# Pixels that are so little outside of [0, 1] are not of another scale.
SLIGHT = 0.01


@dataclass(frozen=True, eq=False, repr=False)
class Images(Shown):
    """Images and, where known, their labels, on one device.

    What reads images uses `stored`, `float`, `each` and `take`, not `pixels`: `corral.data.streamed.Streamed` has these
    too, and no tensor of all pixels.

    Args:
        pixels: (N, C, H, W) uint8; or float32 in [0, 1] for sources that are not 8-bit.
        labels: (N,) int64, or None for unlabeled images.
        pictures: the same images, without labels, read from pictures of any size, of which random parts are taken.

    Raises:
        CorralError: a wrong shape or type, a pixel that is not finite or not in [0, 1], a negative label.
    """

    pixels: Tensor
    labels: Tensor | None = None
    pictures: "Images | None" = None

    def __post_init__(self) -> None:
        pixels, labels = self.pixels, self.labels
        for part, values in (("pixels", pixels), ("labels", labels)):
            if not isinstance(values, Tensor) and (part == "pixels" or values is not None):
                raise CorralError(
                    f"{part} must be a torch tensor, found {type(values).__name__}: `corral.data.from_arrays` takes "
                    "arrays and lists, or convert them by torch.as_tensor"
                )
        if pixels.ndim != 4 or 0 in pixels.shape[1:]:
            raise CorralError(f"pixels must have the shape (N, C, H, W), found {tuple(pixels.shape)}")
        if pixels.dtype not in (torch.uint8, torch.float32):
            raise CorralError(f"pixels must be uint8, or float32 in [0, 1], found {_name(pixels.dtype)}: convert them")
        if pixels.dtype == torch.float32 and len(pixels):
            _check_range(pixels)
        check_labels_fit(labels, len(pixels))
        if labels is not None and labels.device != pixels.device:
            raise CorralError(f"pixels are on {pixels.device} but labels on {labels.device}: move them to one device")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where pixels are given and labels lie."""
        return self.pixels.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored pixels."""
        return self.pixels.dtype

    @property
    def streamed(self) -> bool:
        """Whether pixels are read when they are asked for."""
        return False

    def identity(self) -> str:
        """What the pixels and labels follow from, where that is cheaper to know than they are; else ""."""
        return ""

    def files(self) -> str:
        """16 hexadecimal digits of the names and sizes of the picture files that `whole` reads; "" where it reads none.

        Random parts may be of what the pixels, and their fingerprint, leave out.
        """
        return "" if self.pictures is None else self.pictures.files()

    def _shown(self) -> tuple[str, dict[str, object]]:
        labels = "no labels" if self.labels is None else "labelled"
        return f"{len(self):,}", {"shape": self.shape, "kind": _name(self.dtype), "labels": labels}

    def stored(self, rows: Tensor | None = None, crops: Crops | None = None, needed: Needed | None = None) -> Tensor:
        """(n, C, H, W) pixels as they are stored.

        Args:
            rows: (n,) int64 indices or an (N,) mask; default all.
            crops: take a random part of each, for training; they draw for all.
            needed: which places of n images are needed, by n, as of one of several processes. Streamed images of the
                others are not read and are 0.
        """
        chosen = self.pixels if rows is None else self.pixels[rows.to(self.device)]
        return chosen if crops is None else cropped(chosen, crops.draw(len(chosen)), crops.smallest)

    def float(self, rows: Tensor | None = None) -> Tensor:
        """The images of `rows`, as of `stored`, as (n, C, H, W) float32 in [0, 1]."""
        return as_float(self.stored(rows))

    def each(
        self, batches: Iterable[Tensor], crops: Crops | None = None, needed: Needed | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Every batch of (n,) indices with its pixels; arguments as of `stored`.

        Batches are taken one by one; of images that are streamed, some before they are wanted.

        Args:
            batches: (n,) int64 indices each.
            crops: take a random part of each image, for training.
            needed: which places of n images are needed, by n.
        """
        for batch in batches:
            yield batch, self.stored(batch, crops, needed)

    def whole(self) -> "Images":
        """The images that random parts are taken of: pictures, where there are such, as they lie there."""
        return self if self.pictures is None else self.pictures

    def take(self, rows: Tensor) -> "Images":
        """The images and labels of `rows`, (n,) int64 indices or an (N,) mask."""
        rows = rows.to(self.device)
        pictures = None if self.pictures is None else self.pictures.take(rows)
        return Images(rows_of(self.pixels, rows), None if self.labels is None else self.labels[rows], pictures)

    def labelled(self, labels: Tensor) -> "Images":
        """The same images with (N,) int64 labels."""
        return Images(self.pixels, labels, self.pictures)

    def to(self, device: torch.device | str) -> "Images":
        """The same images for work on `device`: there, or read from here where it has not the memory for all."""
        from corral.data.streamed import Held, Streamed

        place = torch.device(device)
        pictures = None if self.pictures is None else self.pictures.to(place)
        size = self.pixels.numel() * self.pixels.element_size()
        if self.device.type == "cpu" and place != self.device and too_many(size, place):
            return Streamed(Held(self.pixels), self.labels, device=place, pictures=pictures)
        return Images(self.pixels.to(place), None if self.labels is None else self.labels.to(place), pictures)

    def behind(self, other: "Images") -> "Images":
        """These and, behind them, others of the same shape, type and device, without labels.

        From 2 GiB on they lie on the disk.

        Args:
            other: the images that come after these.

        Raises:
            CorralError: images of different shapes, types or devices.
        """
        one, two = self.pixels, other.pixels
        if (one.shape[1:], one.dtype, one.device) != (two.shape[1:], two.dtype, two.device):
            raise CorralError(
                f"images of {tuple(one.shape[1:])}, {_name(one.dtype)} on {one.device} cannot be joined with those of "
                f"{tuple(two.shape[1:])}, {_name(two.dtype)} on {two.device}: make them alike"
            )
        both = self.pictures is not None and other.pictures is not None
        pictures = self.pictures.behind(other.pictures) if both else None  # type: ignore[union-attr, arg-type]
        return Images(stacked(one, two), None, pictures)


def joined(first: Images, second: Images) -> Images:
    """The images of both, those of the second behind the first's, without labels; from 2 GiB on they lie on the disk.

    Raises:
        CorralError: images of different shapes, types or devices, or streamed from different sources.
    """
    return first.behind(second)


def as_float(pixels: Tensor) -> Tensor:
    """Stored pixels as float32 in [0, 1]."""
    return pixels / 255 if pixels.dtype == torch.uint8 else pixels


def check_labels_fit(labels: Tensor | None, count: int) -> None:
    """Refuse labels of another type, or not one for each of `count` images; None is right."""
    if labels is not None and (labels.dtype != torch.int64 or labels.shape != (count,)):
        raise CorralError(
            f"labels must be int64 of shape ({count},), one for each image, "
            f"found {_name(labels.dtype)} of shape {tuple(labels.shape)}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class DataSet(Shown):
    """A training set and a test set of the same kind of images, with the names of their classes.

    Args:
        name: what `corral.data.load` was asked for.
        classes: the class names; label c is `classes[c]`.
        train: labelled images.
        test: labelled images of the same shape.
        unlabeled: more images of the same shape without labels, where the data set has them.
        note: what a reader should know of the source, such as "official" or "class-balanced subset: ...".
        split_off: the source has no test part, and `test` was split off its images here.

    Raises:
        CorralError: images without labels, a label outside the classes, an empty part, parts of different shapes, or a
            name that is no UTF-8 text.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    unlabeled: Images | None = None
    note: str = "official"
    split_off: bool = False

    def __post_init__(self) -> None:
        for text in (self.name, *self.classes, self.note):
            as_text(text)  # what no document can hold is refused before anything is made of it
        if len(self.classes) < 2:
            raise CorralError(f"{self.name}: needs at least 2 classes, found {len(self.classes)}: {list(self.classes)}")
        for part, images in (("train", self.train), ("test", self.test)):
            if images.labels is None or not len(images):
                found = f"{len(images)} images {'without' if images.labels is None else 'with'} labels"
                raise CorralError(f"{self.name}: {part} needs at least one labelled image, found {found}")
            check_labels(images.labels, len(self.classes), f"{self.name}: {part}")
        for part, other in (("test", self.test), ("unlabeled", self.unlabeled)):
            if other is not None and other.shape != self.train.shape:
                raise CorralError(
                    f"{self.name}: {part} images are {other.shape} (C, H, W) but train images are {self.train.shape}: "
                    "make them the same"
                )

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of train and test pixels and labels; the same on every device."""
        return fingerprint_of(self.train, self.test)

    @cached_property
    def unlabeled_fingerprint(self) -> str | None:
        """Of the images without labels: number, shape and the bytes of a thousand of them at most; None without any."""
        if self.unlabeled is None:
            return None
        images = self.unlabeled
        digest = hashlib.sha256(_headed(images))
        for row in torch.split(torch.arange(0, len(images), -(-len(images) // SAMPLED) or 1), CHUNK):
            digest.update(_bytes(images.stored(row)))
        return digest.hexdigest()[:16]

    def _shown(self) -> tuple[str, dict[str, object]]:
        more = {} if self.unlabeled is None else {"unlabeled": f"{len(self.unlabeled):,} unlabeled"}
        counts = {"train": f"{len(self.train):,} train", "test": f"{len(self.test):,} test"}
        shape = f"images {self.train.shape}"
        return self.name, {**counts, **more, "shape": shape, "classes": f"{len(self.classes)} classes"}

    def to(self, device: torch.device | str, *, unlabeled: bool = False) -> "DataSet":
        """The data set with train and test on `device`; the unlabeled part may be gigabytes and moves on request."""
        more = self.unlabeled.to(device) if unlabeled and self.unlabeled is not None else self.unlabeled
        return replace(self, train=self.train.to(device), test=self.test.to(device), unlabeled=more)


def readable(data: DataSet) -> DataSet:
    """The data, every image of which could be read: of streamed ones too, before anything is made of them."""
    if data.train.streamed:
        _ = data.fingerprint
    return data


def fingerprint_of(*parts: Images) -> str:
    """16 hexadecimal digits of the SHA-256 of the pixels and labels of some images, part by part.

    The same whether the images lie in memory or are streamed. Streamed ones are decoded once for it, with a line of
    progress; the result is kept in the per-user cache under what the pixels follow from: of files their names, sizes,
    and times of change, how they are made one size, and Pillow's version.
    """
    keys = [images.identity() for images in parts]
    if not all(keys):
        return _digest(parts)
    key = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    return str(known("fingerprint", key, lambda: _digest(parts), valid=lambda found: isinstance(found, str)))


def _digest(parts: Sequence[Images]) -> str:
    digest = hashlib.sha256()
    streamed = sum(len(images) for images in parts if images.streamed)
    with Progress("fingerprint", streamed, "images", enabled=streamed > 0) as bar:
        for images in parts:
            digest.update(_headed(images))
            if type(images) is Images:
                digest.update(_bytes(images.pixels))
            else:
                for rows, pixels in images.each(torch.split(torch.arange(len(images)), CHUNK)):
                    digest.update(_bytes(pixels))
                    bar.advance(len(rows))
            if images.labels is not None:
                digest.update(f"{_name(images.labels.dtype)} {tuple(images.labels.shape)}\n".encode())
                digest.update(_bytes(images.labels))
    return digest.hexdigest()[:16]


def _headed(images: Images) -> bytes:
    """The type and the shape of all pixels, which stand before them."""
    return f"{_name(images.dtype)} {(len(images), *images.shape)}\n".encode()


def _bytes(values: Tensor) -> memoryview:
    return values.detach().cpu().contiguous().numpy().data


def check_labels(labels: Tensor, num_classes: int, where: str) -> None:
    """Refuse labels outside [0, num_classes).

    Args:
        labels: (N,) integers.
        num_classes: how many classes there are.
        where: what the message begins with, such as the file or "mnist: train".

    Raises:
        CorralError: names the first wrong label, its row and the number of classes.
    """
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise CorralError(
            f"{where}: label {int(labels[row])} in row {row} is outside the {num_classes} classes "
            f"(0 to {num_classes - 1}): correct the labels or name every class"
        )


def require_all_classes(labels: Tensor, classes: Sequence[str], where: str) -> None:
    """Refuse classes without an image: a classifier would be trained with outputs, clusters or centres of nothing.

    Args:
        labels: (N,) integers in [0, len(classes)).
        classes: the names.
        where: what the message begins with.

    Raises:
        CorralError: names the classes that have no image, up to three.
    """
    counts = torch.bincount(labels.cpu(), minlength=len(classes))
    absent = [classes[label] for label in (counts == 0).nonzero().flatten().tolist()]
    if not absent:
        return
    named = ", ".join(absent[:NAMED]) + (f" and {len(absent) - NAMED:,} more" if len(absent) > NAMED else "")
    first = "; labels that count from 1 leave class 0 empty: subtract 1" if absent == [classes[0]] else ""
    raise CorralError(
        f"{where}: no image of class {named} among {len(labels):,}, of {len(classes):,} classes{first}; "
        "number the labels from 0 without gaps, or add images"
    )


def _check_range(pixels: Tensor) -> None:
    finite = torch.isfinite(pixels)
    if not bool(finite.all()):
        wrong = (~finite).flatten(1)
        row = int(wrong.any(1).nonzero()[0])
        raise CorralError(
            f"pixels must be finite numbers in [0, 1]; found {int(wrong.sum())} NaN or infinite, "
            f"the first in row {row}: repair or drop these images"
        )
    lowest, highest = float(pixels.min()), float(pixels.max())
    outside = max(highest - 1, -lowest)
    if 0 < outside < SLIGHT:
        raise CorralError(f"pixels must be in [0, 1]; found {outside:.3g} outside of it: clip them, `x.clip(0, 1)`")
    if highest > 1:
        raise CorralError(f"pixels must be in [0, 1]; found max {highest:g}: divide by 255 or store uint8")
    if lowest < 0:
        raise CorralError(
            f"pixels must be in [0, 1]; found min {lowest:g}: undo the normalisation, corral does its own"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
