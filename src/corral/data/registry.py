"""The registries of data sets, by name and at a path."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from corral.data.given import OnePart, read_given
from corral.data.images import DataSet
from corral.data.loading.arrays import Layout
from corral.data.parts import WrongDataError
from corral.errors import CorralError
from corral.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])
RETURNED = "(x_train, y_train, x_test, y_test) or a corral.data.DataSet, or what else corral.data.own takes"


@dataclass(frozen=True)
class NamedDataSet:
    """A data set that has a name, and its loader.

    Attributes:
        name: what `load` takes.
        description: one line.
        loader: returns whatever `data=` takes but a name. It is called with `root`, the folder of data-set files or
            None, and `download`, whether it may fetch, where it has arguments of these names.
        shape: (C, H, W) of an image; None where only the images say.
        classes: how many classes there are, or their names; None where only the labels say.
        layout: of images that are arrays; None where their shape says.
    """

    name: str
    description: str
    loader: Callable[..., Any]
    shape: tuple[int, int, int] | None = None
    classes: int | tuple[str, ...] | None = None
    layout: Layout | None = None

    def load(self, name: str, *, root: Path | None, download: bool) -> DataSet | OnePart:
        """The data, under the name that they were asked for.

        Args:
            name: what the data are called.
            root: folder of the data-set files.
            download: whether files that are not there may be fetched.

        Raises:
            CorralError: the loader failed, or what it returned is no data set or not the one described.
        """
        given = {"root": root, "download": download}
        taken = inspect.signature(self.loader).parameters
        try:
            found = self.loader(**{key: value for key, value in given.items() if key in taken})
        except CorralError:
            raise
        except Exception as error:  # whatever a foreign function raises
            raise CorralError(f"{name}: its loader failed ({type(error).__name__}: {error})") from error
        note = self.description or None
        try:
            read = read_given(found, name, classes=self.classes, layout=self.layout, shape=self.shape, note=note)
        except WrongDataError as error:
            raise CorralError(f"{name}: its loader returned {error.words}, expected {RETURNED}") from None
        images = read.train if isinstance(read, DataSet) else read.images
        if self.shape is not None and images.shape != self.shape:
            raise CorralError(f"{name}: images are {images.shape} (C, H, W), expected {self.shape}")
        return read


@dataclass(frozen=True)
class PathDataSet:
    """A kind of data set that lies at a path the user gives, as "name:PATH".

    Attributes:
        name: what stands before the colon.
        description: one line.
        loader: called with the path.
    """

    name: str
    description: str
    loader: Callable[[Path], DataSet]


def _named(thing: object) -> NamedDataSet:
    """What a target names: a loader; registered or not."""
    if not callable(thing):
        raise TypeError(f"expected a function that returns {RETURNED}, found {type(thing).__name__}")
    registered = (entry for _, entry in DATA_SETS.items() if entry.loader is thing)
    return next(registered, NamedDataSet(getattr(thing, "__name__", ""), "", thing))


DATA_SETS: Registry[NamedDataSet] = Registry("data set", group="corral.data", package="corral.data.sets", check=_named)
PATH_DATA_SETS: Registry[PathDataSet] = Registry(
    "kind of data set", group="corral.path_data", package="corral.data.sets"
)


def register_data(
    name: str,
    *,
    description: str = "",
    shape: tuple[int, int, int] | None = None,
    classes: int | Sequence[str] | None = None,
    layout: Layout | None = None,
) -> Callable[[F], F]:
    """Register a function that loads a data set; a decorator.

    The function returns (x_train, y_train, x_test, y_test), tensors or arrays as `corral.data.from_arrays` takes them;
    a `corral.data.DataSet`; or anything else that `corral.data.own` takes. Where it has an argument `root` or
    `download`, it gets the folder of data-set files or None, and whether it may fetch.

    Args:
        name: what `corral.data.load` and `--data` take.
        description: one line for listings and the run's note.
        shape: (C, H, W) of an image, which is checked.
        classes: how many classes there are, or their names; default the numbers up to the largest label.
        layout: "NCHW" or "NHWC", for arrays whose shape could be either.

    Raises:
        UsageError: a name that is taken, empty, or has a colon.
    """

    def added(loader: F) -> F:
        names = classes if classes is None or isinstance(classes, int) else tuple(classes)
        entry = NamedDataSet(name, description, loader, shape, names, layout)
        DATA_SETS.add(name, entry, source=loader)
        return loader

    return added


def register_path_data(name: str, *, description: str = "") -> Callable[[F], F]:
    """Register a function that reads a data set from a path, as "name:PATH"; a decorator.

    The function takes the path and returns a `corral.data.DataSet` whose name is "name:PATH".

    Args:
        name: what stands before the colon.
        description: one line for listings.

    Raises:
        UsageError: a name that is taken, empty, or has a colon.
    """

    def added(loader: F) -> F:
        PATH_DATA_SETS.add(name, PathDataSet(name, description, loader), source=loader)
        return loader

    return added
