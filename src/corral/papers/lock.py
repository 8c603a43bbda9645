"""One process at a time: a lock on a file, which the system lets go of when its holder ends, however it ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from corral.errors import CorralError

if sys.platform == "win32":
    import msvcrt

    def _take(stream: IO[bytes]) -> None:
        msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK, 1)
else:
    import fcntl

    def _take(stream: IO[bytes]) -> None:
        fcntl.flock(stream, fcntl.LOCK_EX)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; a second holder waits until the first is done.

    Raises:
        CorralError: the file cannot be made, or its file system has no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")
    except OSError as error:
        raise CorralError(f"{path}: cannot be written ({error.strerror}); nothing was changed") from error
    with stream:
        try:
            _take(stream)
        except OSError as error:
            raise CorralError(f"{path}: cannot be locked ({error.strerror}); put the results elsewhere") from error
        yield
