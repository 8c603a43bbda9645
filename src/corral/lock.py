"""One process at a time: locks that end with their holder, however it ends."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from corral.errors import CorralError
from corral.files import remove_abandoned, try_lock

if sys.platform == "win32":
    import msvcrt

    def _take(stream: IO[bytes]) -> None:
        msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK, 1)
else:
    import fcntl

    def _take(stream: IO[bytes]) -> None:
        fcntl.flock(stream, fcntl.LOCK_EX)


# The holder touches its lock file so often; on another host, whose locks may not be seen here, it is gone where that
# did not happen for so long.
BEAT_SECONDS, SILENT_SECONDS = 5.0, 15.0


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; a second holder waits until the first is done.

    Raises:
        CorralError: the file cannot be made, or its file system has no locks.
    """
    with _opened(path) as stream:
        try:
            _take(stream)
        except OSError as error:
            raise CorralError(f"{path}: cannot be locked ({error.strerror}); put the results elsewhere") from error
        yield


@contextmanager
def held(folder: Path, work: str) -> Iterator[None]:
    """Hold a folder for a kind of work, such as "train"; a second holder is refused at once.

    The lock file `.WORK.lock` names the holder's process, host and time. The lock of a process that was killed is taken
    over: at once on the same host, after `SILENT_SECONDS` on another or where the file system has no locks. What killed
    writes left in the folder is removed.

    Raises:
        CorralError: another process holds it, or the folder cannot be written.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    path = folder / f".{work}.lock"
    stream = _held(path, folder, work)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, done), daemon=True)
    try:
        remove_abandoned(folder)
        beating.start()
        yield
    finally:
        done.set()
        with contextlib.suppress(OSError):
            path.unlink()
        stream.close()
        with contextlib.suppress(OSError):  # something was written there
            for one in made:
                one.rmdir()


def is_lock(name: str) -> bool:
    """Whether a file's name is that of a lock."""
    return name.startswith(".") and name.endswith(".lock")


def _opened(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+b")
    except OSError as error:
        raise CorralError(f"{path}: cannot be written ({error.strerror}); nothing was changed") from error


def _held(path: Path, folder: Path, work: str) -> IO[bytes]:
    """The lock file, locked and with this process in it."""
    while True:
        stream = _opened(path)
        try:
            free, holder = try_lock(stream), _holder(stream)
            elsewhere = holder and (free is None or holder["host"] != socket.gethostname())
            if free is False or (elsewhere and _beats(path)):
                raise _in_use(folder, work, holder)
            # The file that was locked may be one that its holder removed in between.
            if os.path.exists(path) and os.path.samestat(os.fstat(stream.fileno()), os.stat(path)):
                since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                stream.truncate(0)
                own = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
                stream.write(json.dumps(own).encode())
                stream.flush()
                return stream
        except OSError as error:
            stream.close()
            raise CorralError(f"{path}: cannot be written ({error.strerror}); nothing was changed") from error
        except BaseException:
            stream.close()
            raise
        stream.close()


def _holder(stream: IO[bytes]) -> dict[str, Any] | None:
    """Who wrote a lock file; None where it was not yet written."""
    stream.seek(0)
    try:
        found = json.loads(stream.read(4096))
        return {"process": int(found["process"]), "host": str(found["host"]), "since": str(found["since"])}
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _in_use(folder: Path, work: str, holder: dict[str, Any] | None) -> CorralError:
    who = "another process"
    if holder is not None:
        who = f"process {holder['process']} on {holder['host']}, since {holder['since']},"
    return CorralError(f"{folder}: {who} is at work here ({work}); wait until it ends, or choose another folder")


def _beats(path: Path) -> bool:
    """Whether a holder elsewhere still touches the file; it is opened anew, for a network's file systems cache."""
    before = _touched(path)
    time.sleep(SILENT_SECONDS)
    return _touched(path) != before


def _touched(path: Path) -> int:
    with path.open("rb") as stream:
        return os.fstat(stream.fileno()).st_mtime_ns


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
