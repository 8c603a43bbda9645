"""Files that are written whole or not at all."""

import glob
import os
import tempfile
import time
from pathlib import Path

from corral.errors import CorralError

# A temporary file that is older belongs to a write that was killed: none takes that long.
ABANDONED_SECONDS = 600


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old content or the new, never a part.

    What a killed write of the same file left beside it is removed by a later one.

    Raises:
        CorralError: the disk is full or the folder cannot be written.
    """
    if path.exists() and not path.is_file():
        raise CorralError(f"{path}: no regular file, and only those are written over; give another path")
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
