"""Files that are written whole or not at all, and their names as documents record them."""

import contextlib
import glob
import os
import re
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from corral.errors import CorralError, UsageError
from corral.terminal import one_line

AnyPath = str | os.PathLike[str]
"""A path as text, a `Path`, or a run."""

if sys.platform == "win32":

    def try_lock(stream: IO[bytes]) -> bool | None:
        """Nothing: Windows lets nobody rename a file that is held."""
        return None
else:
    import fcntl

    def try_lock(stream: IO[bytes]) -> bool | None:
        """Lock a file until it is closed or its process ends: False if another holds it, None without such locks."""
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True


# A write holds a lock on its temporary file. It is made a moment before it is locked; where there are no locks, a
# write that takes longer than this was killed.
UNLOCKED_SECONDS, ABANDONED_SECONDS = 2, 600
TEMPORARY = re.compile(r"\..+\.corral-.{8}")


def as_text(path: AnyPath) -> str:
    """A path or a part of one as a document records it, the same text in every locale.

    Raises:
        CorralError: its bytes are no UTF-8, so that no document can hold it.
    """
    try:
        return str(path).encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        raise CorralError(f"{path_words(path)}: has a name that is not UTF-8; rename it") from error


def as_path(text: str) -> str:
    """The path that `as_text` recorded, in this process's locale; a path as the user gave it stays as it is."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # a locale without these characters: the system has the bytes all the same
        return os.fsdecode(text.encode("utf-8"))
    return text


def path_words(path: AnyPath) -> str:
    """A path as one line of text, whatever its bytes are; what is no text and what does not print is escaped."""
    return one_line(str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old content or the new, never a part.

    What a killed write of the same file left beside it is removed by a later one.

    Raises:
        CorralError: as `check_writable`, or the disk is full.
    """
    check_writable(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}.corral-"
        remove_abandoned(path.parent, prefix)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix)
        with os.fdopen(handle, "wb") as stream:
            try_lock(stream)  # until it has its name: `remove_abandoned` leaves it alone
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            if sys.platform == "win32":
                stream.close()
            os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def check_writable(path: Path) -> None:
    """Refuse a file that `write_atomically` could not write, before the work that makes its content; changes nothing.

    Raises:
        CorralError: no folder that can be made or written, or what lies there is no regular file.
    """
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            mode = os.stat(path).st_mode
            if not stat.S_ISREG(mode):
                what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
                raise CorralError(f"{path}: is {what} and cannot be written; name another file")
        folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        if not folder.is_dir():
            raise _unwritable(path, f"{folder} is no folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise _unwritable(path, f"{folder} is read-only")
        path.name.encode()
    except (OSError, ValueError) as error:  # a name with a null byte or half a character is a ValueError
        raise _unwritable(path, error.strerror if isinstance(error, OSError) else "no name for a file") from error


def _unwritable(path: Path, reason: str | None) -> CorralError:
    return CorralError(f"{path}: cannot be written ({reason}); nothing was changed")


def check_recordable(*names: AnyPath) -> None:
    """Refuse names that no record, page or log could hold, before the work that ends with one.

    Raises:
        UsageError: a name, of a file or in a setting, that is no UTF-8 text in this locale.
    """
    for name in names:
        try:
            str(name).encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{path_words(name)}: this name is not UTF-8 text in this locale, so that no record can hold it; "
                "rename it, or set LC_ALL=C.UTF-8"
            ) from None


def user_path(path: AnyPath) -> Path:
    """A path, "~" as the user's home.

    Raises:
        CorralError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise CorralError(f"{path}: no home folder is known for ~; set HOME or give the whole path") from error


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of a write that is going on or was killed."""
    return TEMPORARY.fullmatch(name) is not None


def remove_abandoned(folder: Path, prefix: str = "") -> None:
    """Remove what killed writes left in a folder, of files whose temporary names begin so."""
    for found in folder.glob(f"{glob.escape(prefix)}????????" if prefix else ".*.corral-????????"):
        with contextlib.suppress(OSError):  # another process was first, or it is another user's: no reason not to write
            age = time.time() - found.stat().st_mtime
            if age < UNLOCKED_SECONDS:
                continue
            with found.open("r+b") as stream:
                free = try_lock(stream)
                if free or (free is None and age > ABANDONED_SECONDS):
                    found.unlink()
