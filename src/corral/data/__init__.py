"""Images and labels: the data sets by name, their splits, batches and augmentation."""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from corral.data.augment import crop_and_flip
from corral.data.batches import shuffled
from corral.data.cifar import load_cifar10, load_cifar100
from corral.data.digits import load_digits
from corral.data.folder import load_folder
from corral.data.images import DataSet, Images, joined
from corral.data.mnist import load_fashion_mnist, load_mnist
from corral.data.npz import load_npz
from corral.data.split import random_subset, split_validation, stratified_subset
from corral.data.stl10 import load_stl10
from corral.data.svhn import load_svhn
from corral.data.toy import load_toy_circles, load_toy_moons
from corral.errors import UsageError

__all__ = [
    "DATA_SETS",
    "PATH_DATA_SETS",
    "DataSet",
    "Images",
    "NamedDataSet",
    "PathDataSet",
    "crop_and_flip",
    "joined",
    "load",
    "loaded_once",
    "random_subset",
    "shuffled",
    "split_validation",
    "stratified_subset",
]


@dataclass(frozen=True)
class NamedDataSet:
    """A data set that has a name: what a listing says of it, and its loader.

    Args:
        name: what `load` takes.
        description: one line.
        shape: (C, H, W) of an image.
        classes: how many classes there are.
        loader: called with root and download.
    """

    name: str
    description: str
    shape: tuple[int, int, int]
    classes: int
    loader: Callable[[Path | None, bool], DataSet]


@dataclass(frozen=True)
class PathDataSet:
    """A kind of data set that lies at a path the user gives, as "name:PATH".

    Args:
        name: what stands before the colon.
        description: one line.
        loader: called with the path.
    """

    name: str
    description: str
    loader: Callable[[Path], DataSet]


DATA_SETS: dict[str, NamedDataSet] = {
    entry.name: entry
    for entry in (
        NamedDataSet("digits", "1,797 handwritten digits that come with scikit-learn", (1, 8, 8), 10, load_digits),
        NamedDataSet("mnist", "70,000 handwritten digits", (1, 28, 28), 10, load_mnist),
        NamedDataSet("fashion-mnist", "70,000 pieces of clothing", (1, 28, 28), 10, load_fashion_mnist),
        NamedDataSet("cifar10", "60,000 colour photographs of 10 classes", (3, 32, 32), 10, load_cifar10),
        NamedDataSet("cifar100", "60,000 colour photographs of 100 classes", (3, 32, 32), 100, load_cifar100),
        NamedDataSet("svhn", "99,289 colour photographs of house-number digits", (3, 32, 32), 10, load_svhn),
        NamedDataSet("stl10", "13,000 colour photographs, 100,000 unlabeled", (3, 96, 96), 10, load_stl10),
        NamedDataSet("toy-moons", "2,000 points on two half circles in the unit square", (2, 1, 1), 2, load_toy_moons),
        NamedDataSet("toy-circles", "2,000 points on two circles in the unit square", (2, 1, 1), 2, load_toy_circles),
    )
}

PATH_DATA_SETS: dict[str, PathDataSet] = {
    entry.name: entry
    for entry in (
        PathDataSet("folder", "a tree of image files, one folder for each class", load_folder),
        PathDataSet("npz", "one .npz file of images and labels", load_npz),
    )
}

# What `load` has read within `loaded_once`.
_HELD: ContextVar[dict[tuple[str, str | None], DataSet] | None] = ContextVar("held", default=None)


def load(name: str, *, root: Path | str | None = None, download: bool = True) -> DataSet:
    """Load a data set by name.

    Args:
        name: a key of `DATA_SETS`, or "kind:PATH" with a key of `PATH_DATA_SETS`.
        root: the folder to look in and to fetch into; by default the one that the environment variable CORRAL_DATA
            names and the per-user cache.
        download: fetch the official files, checked by hash, where they are not there.

    Returns:
        The data set on the CPU; `.to(device)` moves it.

    Raises:
        UsageError: an unknown name.
        CorralError: the data are absent, truncated or foreign, or cannot be fetched.
    """
    held = _HELD.get()
    if held is None:
        return _read(name, root, download)
    key = (name, None if root is None else str(root))
    if key not in held:
        held[key] = _read(name, root, download)
    return held[key]


@contextmanager
def loaded_once() -> Iterator[None]:
    """Within this block `load` reads each data set once and returns the same object: for many runs on one set."""
    token = _HELD.set({})
    try:
        yield
    finally:
        _HELD.reset(token)


def _read(name: str, root: Path | str | None, download: bool) -> DataSet:
    """The data set from its files."""
    kind, colon, path = name.partition(":")
    if colon and path and kind in PATH_DATA_SETS:
        return PATH_DATA_SETS[kind].loader(Path(path).expanduser())
    if name in DATA_SETS:
        return DATA_SETS[name].loader(None if root is None else Path(root), download)
    known = [*DATA_SETS, *(f"{entry}:PATH" for entry in PATH_DATA_SETS)]
    near = difflib.get_close_matches(name.lower(), known, n=1)
    suggestion = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(f"unknown data set {name!r}{suggestion}; known are {', '.join(known)}")
