"""Images with their labels, and a data set of them: what every other part of corral reads."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from corral.data.loading.memmap import rows_of, stacked
from corral.errors import CorralError
from corral.files import as_text

# Images without labels whose bytes are in their fingerprint, at most.
SAMPLED = 1000
# Classes that a message names.
NAMED = 3
# Pixels that are so little outside of [0, 1] are not of another scale.
SLIGHT = 0.01


@dataclass(frozen=True, eq=False)
class Images:
    """Images and, where known, their labels, on one device.

    Args:
        pixels: (N, C, H, W) uint8; or float32 in [0, 1] for sources that are not 8-bit.
        labels: (N,) int64, or None for unlabeled images.

    Raises:
        CorralError: a wrong shape or type, a pixel that is not finite or not in [0, 1], a negative label.
    """

    pixels: Tensor
    labels: Tensor | None = None

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
        if labels is None:
            return
        if labels.dtype != torch.int64 or labels.shape != pixels.shape[:1]:
            raise CorralError(
                f"labels must be int64 of shape ({len(pixels)},), one for each image, "
                f"found {_name(labels.dtype)} of shape {tuple(labels.shape)}"
            )
        if labels.device != pixels.device:
            raise CorralError(f"pixels are on {pixels.device} but labels on {labels.device}: move them to one device")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def float(self, rows: Tensor | None = None) -> Tensor:
        """The images of `rows`, (n,) int64 indices or an (N,) mask, default all, as (n, C, H, W) float32 in [0, 1]."""
        chosen = self.pixels if rows is None else self.pixels[rows.to(self.pixels.device)]
        return chosen / 255 if chosen.dtype == torch.uint8 else chosen

    def take(self, rows: Tensor) -> "Images":
        """The images and labels of `rows`, (n,) int64 indices or an (N,) mask."""
        rows = rows.to(self.pixels.device)
        return Images(rows_of(self.pixels, rows), None if self.labels is None else self.labels[rows])

    def to(self, device: torch.device | str) -> "Images":
        """The same images on `device`."""
        return Images(self.pixels.to(device), None if self.labels is None else self.labels.to(device))


def joined(first: Images, second: Images) -> Images:
    """The images of both, those of the second behind the first's, without labels; from 2 GiB on they lie on the disk.

    Raises:
        CorralError: images of different shapes, types or devices.
    """
    one, other = first.pixels, second.pixels
    if (one.shape[1:], one.dtype, one.device) != (other.shape[1:], other.dtype, other.device):
        raise CorralError(
            f"images of {tuple(one.shape[1:])}, {_name(one.dtype)} on {one.device} cannot be joined with those of "
            f"{tuple(other.shape[1:])}, {_name(other.dtype)} on {other.device}: make them alike"
        )
    return Images(stacked(one, other))


@dataclass(frozen=True, eq=False)
class DataSet:
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
        pixels = self.unlabeled.pixels
        digest = hashlib.sha256(f"{_name(pixels.dtype)} {tuple(pixels.shape)}\n".encode())
        for row in range(0, len(pixels), -(-len(pixels) // SAMPLED) or 1):
            digest.update(pixels[row].detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def to(self, device: torch.device | str, *, unlabeled: bool = False) -> "DataSet":
        """The data set with train and test on `device`; the unlabeled part may be gigabytes and moves on request."""
        more = self.unlabeled.to(device) if unlabeled and self.unlabeled is not None else self.unlabeled
        return replace(self, train=self.train.to(device), test=self.test.to(device), unlabeled=more)


def fingerprint_of(*parts: Images) -> str:
    """16 hexadecimal digits of the SHA-256 of the pixels and labels of some images, part by part."""
    digest = hashlib.sha256()
    for images in parts:
        for tensor in (images.pixels, images.labels):
            if tensor is not None:
                digest.update(f"{_name(tensor.dtype)} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


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
