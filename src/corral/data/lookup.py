"""Data sets by name: registered, at a path, or made by a function of the user's; and data given as objects."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch

from corral.data.given import OWN, AnyData, Measured, OnePart, is_own, own_name, read_given
from corral.data.images import DataSet, joined
from corral.data.registry import DATA_SETS, PATH_DATA_SETS
from corral.errors import CorralError, UsageError, closest
from corral.files import as_path, as_text, user_path
from corral.registry import is_target, lasting

# What `load` has read within `loaded_once`.
_HELD: ContextVar[dict[tuple[str, str | None], DataSet | OnePart] | None] = ContextVar("held", default=None)


def load(data: AnyData, *, root: Path | str | None = None, download: bool = True, code: bool = True) -> DataSet:
    """Load a data set by name, or read one that is given as an object.

    Args:
        data: a key of `DATA_SETS`; "kind:PATH" with a key of `PATH_DATA_SETS`; "file.py:function" or
            "package.module:function", a function as `corral.register.data` takes it; a data set; or data as
            `corral.data.own` takes them. Of data without a test part a fixed stratified fifth becomes it.
        root: the folder to look in and to fetch into; by default the one that the environment variable CORRAL_DATA
            names and the per-user cache.
        download: fetch the official files, checked by hash, where they are not there.
        code: whether a function's file or module may be imported that was not yet. False for a name out of a document
            that the user did not write, such as a run folder.

    Returns:
        The data set on the CPU; `.to(device)` moves it.

    Raises:
        UsageError: an unknown name, or no data.
        CorralError: the data are absent, truncated or foreign, or cannot be fetched; a function failed, or what it
            returned is no data set.
    """
    found = _found(data, root, download, code)
    return found if isinstance(found, DataSet) else found.data_set


def load_measured(
    data: AnyData, *, root: Path | str | None = None, trained_on: str | None = None, code: bool = True
) -> Measured:
    """Load images to measure on: the test part; of data without one all images, which no model here was trained on.

    Args:
        data: as `load` takes them.
        root: folder of the data-set files, as `load` takes it.
        code: whether a target's Python code may be imported, as `load` takes it.
        trained_on: fingerprint of the data that the model was trained on, where it is known: of these only the test
            part is new to it.

    Raises:
        UsageError, CorralError: as `load`.
    """
    found = _found(data, root, True, code)
    if isinstance(found, OnePart):
        if trained_on is None or not _is_trained_on(found, trained_on):
            return found.measured
        found = found.data_set
    images, note = found.test, found.note
    if found.split_off and found.fingerprint != trained_on:
        parts = (found.train, found.test)
        labels = torch.cat([part.labels for part in parts if part.labels is not None])
        images = joined(*parts).labelled(labels)
        note = f"{note.split(';')[0]}; all {len(images):,} images, the source has no test part"
    return Measured(found.name, found.classes, images, note, found.fingerprint)


def data_name(data: AnyData) -> str:
    """What runs and records call data: a name as it is, a data set's own name where that leads to it, else "own/...".

    Raises:
        UsageError: no data.
    """
    if isinstance(data, str):
        return data
    if not isinstance(data, DataSet | OnePart):
        return own_name(data)
    try:
        return resolved_name(data.name, code=False)
    except CorralError:  # no name, or one of code that nobody has imported
        return f"{OWN}{data.name}"


@contextmanager
def loaded_once() -> Iterator[None]:
    """Within this block `load` reads each data set once and returns the same object: for many runs on one set."""
    token = _HELD.set({})
    try:
        yield
    finally:
        _HELD.reset(token)


def resolved_name(name: str, *, code: bool = True) -> str:
    """A data set's name as a run folder records it: a file or folder of the user's by its whole path.

    Args:
        name: what `load` takes. Nothing is read but a function's file or module, where that may be imported.
        code: see `load`.

    Raises:
        UsageError: an unknown name, a function that is not there, or a path that is not UTF-8.
        CorralError: a function's file or module failed.
    """
    if _at_path(name):
        kind, _, path = name.partition(":")
        return f"{kind}:{as_text(os.path.abspath(os.path.expanduser(as_path(path))))}"
    if name in DATA_SETS or is_own(name):
        return name
    if not is_target(name):
        raise UsageError(
            f"unknown data set {name!r}{closest(name.lower(), known_names())}; known are {', '.join(known_names())}; "
            "or name a function of yours as file.py:function"
        )
    DATA_SETS.find(name, code=code)
    return lasting(name)


def is_known(name: str) -> bool:
    """Whether a name reads as a data set's: registered, at a path, a function, or of an object; nothing is read."""
    return _at_path(name) or name in DATA_SETS or is_own(name) or is_target(name)


def known_names() -> tuple[str, ...]:
    """What `load` takes, for listings: every registered name, and "kind:PATH"."""
    return (*DATA_SETS, *(f"{kind}:PATH" for kind in PATH_DATA_SETS))


def _at_path(name: str) -> bool:
    kind, colon, path = name.partition(":")
    return bool(colon and path) and kind in PATH_DATA_SETS


def _is_trained_on(found: OnePart, fingerprint: str) -> bool:
    """Whether these images, split, are the data of this fingerprint."""
    try:
        return found.data_set.fingerprint == fingerprint
    except CorralError:  # too few images to be split, so nothing was trained on them
        return False


def _found(data: AnyData, root: Path | str | None, download: bool, code: bool) -> DataSet | OnePart:
    """Data as they are, not split yet."""
    if not isinstance(data, str):
        return read_given(data, data_name(data))
    held = _HELD.get()
    if held is None:
        return _read(data, root, download, code)
    key = (data, None if root is None else str(root))
    if key not in held:
        held[key] = _read(data, root, download, code)
    return held[key]


def _read(name: str, root: Path | str | None, download: bool, code: bool) -> DataSet | OnePart:
    """The data from their files, or from their function."""
    name = resolved_name(name, code=code)
    if _at_path(name):
        kind, _, path = name.partition(":")
        return PATH_DATA_SETS[kind].loader(user_path(as_path(path)))
    if is_own(name) and name not in DATA_SETS:
        raise UsageError(
            f"{name}: data that were given as an object, which no name leads to: give them again, data=... in Python, "
            "or --data file.py:function that returns them"
        )
    return DATA_SETS.find(name, code=code).load(name, root=None if root is None else Path(root), download=download)
