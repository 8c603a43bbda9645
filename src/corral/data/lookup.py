"""Data sets by name: registered, at a path, or made by a function of the user's."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from corral.data.images import DataSet
from corral.data.registry import DATA_SETS, PATH_DATA_SETS
from corral.errors import UsageError, closest
from corral.files import as_path, as_text, user_path
from corral.registry import is_target, lasting

# What `load` has read within `loaded_once`.
_HELD: ContextVar[dict[tuple[str, str | None], DataSet] | None] = ContextVar("held", default=None)


def load(name: str, *, root: Path | str | None = None, download: bool = True, code: bool = True) -> DataSet:
    """Load a data set by name.

    Args:
        name: a key of `DATA_SETS`; "kind:PATH" with a key of `PATH_DATA_SETS`; or "file.py:function" or
            "package.module:function", a function as `corral.register.data` takes it.
        root: the folder to look in and to fetch into; by default the one that the environment variable CORRAL_DATA
            names and the per-user cache.
        download: fetch the official files, checked by hash, where they are not there.
        code: whether a function's file or module may be imported that was not yet. False for a name out of a document
            that the user did not write, such as a run folder.

    Returns:
        The data set on the CPU; `.to(device)` moves it.

    Raises:
        UsageError: an unknown name.
        CorralError: the data are absent, truncated or foreign, or cannot be fetched; a function failed, or what it
            returned is no data set.
    """
    held = _HELD.get()
    if held is None:
        return _read(name, root, download, code)
    key = (name, None if root is None else str(root))
    if key not in held:
        held[key] = _read(name, root, download, code)
    return held[key]


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
    if name in DATA_SETS:
        return name
    if not is_target(name):
        raise UsageError(
            f"unknown data set {name!r}{closest(name.lower(), known_names())}; known are {', '.join(known_names())}; "
            "or name a function of yours as file.py:function"
        )
    DATA_SETS.find(name, code=code)
    return lasting(name)


def is_known(name: str) -> bool:
    """Whether a name reads as a data set's: registered, at a path, or a function; nothing is read or imported."""
    return _at_path(name) or name in DATA_SETS or is_target(name)


def known_names() -> tuple[str, ...]:
    """What `load` takes, for listings: every registered name, and "kind:PATH"."""
    return (*DATA_SETS, *(f"{kind}:PATH" for kind in PATH_DATA_SETS))


def _at_path(name: str) -> bool:
    kind, colon, path = name.partition(":")
    return bool(colon and path) and kind in PATH_DATA_SETS


def _read(name: str, root: Path | str | None, download: bool, code: bool) -> DataSet:
    """The data set from its files, or from its function."""
    name = resolved_name(name, code=code)
    if _at_path(name):
        kind, _, path = name.partition(":")
        return PATH_DATA_SETS[kind].loader(user_path(as_path(path)))
    return DATA_SETS.find(name, code=code).load(name, root=None if root is None else Path(root), download=download)
