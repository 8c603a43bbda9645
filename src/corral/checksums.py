"""Checksums of what later commands believe: an edit is named, and accepted only where the caller says so."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from corral.errors import CorralError

_accepted: ContextVar[list[Path] | None] = ContextVar("accepted", default=None)


def checksum(content: Any) -> str:
    """SHA-256 of a JSON-ready content, whatever the order of its keys and its white space."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextmanager
def accept_edited() -> Iterator[None]:
    """Inside, files that were edited since they were written are read all the same.

    What is made from them says so: documents name these files in `edited`, and pages show that.
    """
    token = _accepted.set([])
    try:
        yield
    finally:
        _accepted.reset(token)


def accepts_edited() -> bool:
    """Whether this is inside `accept_edited`, which processes begun from here are not."""
    return _accepted.get() is not None


def edited(path: Path, *, remedy: str, what: str | None = None) -> None:
    """Tell that a file has other content than it was written with.

    Args:
        path: the file.
        remedy: what else than accepting it can be done.
        what: the part of it that was edited, in words; None for the file.

    Raises:
        CorralError: outside `accept_edited`.
    """
    accepted = _accepted.get()
    if accepted is None:
        raise CorralError(
            f"{what or path}: edited since it was written, or damaged; {remedy}, or accept it as it is with "
            "`corral --accept-edited COMMAND`"
        )
    if path not in accepted:
        accepted.append(path)


def edited_above(path: Path) -> tuple[str, ...]:
    """The names of the accepted files in folders above that of a file: what it is made from."""
    here = path.resolve().parent
    above = [one for one in _accepted.get() or () if one.resolve().parent in here.parents]
    return tuple(one.name for one in above)
