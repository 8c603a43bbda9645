"""Files that are written whole or not at all, and their names as documents record them."""

import glob
import os
import tempfile
import time
from pathlib import Path

from corral.errors import CorralError

# A temporary file that is older belongs to a write that was killed: none takes that long.
ABANDONED_SECONDS = 600


def as_text(path: Path | str) -> str:
    """A path or a part of one as a document records it, the same text in every locale.

    Raises:
        CorralError: its bytes are no UTF-8, so that no document can hold it.
    """
    try:
        return str(path).encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        raise CorralError(f"{printable(path)}: has a name that is not UTF-8; rename it") from error


def as_path(text: str) -> str:
    """The path that `as_text` recorded, in this process's locale; a path as the user gave it stays as it is."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # a locale without these characters: the system has the bytes all the same
        return os.fsdecode(text.encode("utf-8"))
    return text


def printable(path: Path | str) -> str:
    """A path as one line of text, whatever its bytes are; what is no text and what does not print is escaped."""
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old content or the new, never a part.

    What a killed write of the same file left beside it is removed by a later one.

    Raises:
        CorralError: the disk is full or the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}.corral-"
        _remove_abandoned(path.parent, prefix)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise CorralError(f"{path}: cannot be written ({error.strerror}); nothing was changed") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _remove_abandoned(folder: Path, prefix: str) -> None:
    for found in folder.glob(f"{glob.escape(prefix)}????????"):
        try:
            if time.time() - found.stat().st_mtime > ABANDONED_SECONDS:
                found.unlink()
        except OSError:  # another process was first, or it is another user's: no reason not to write
            continue
