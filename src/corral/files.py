"""Files that are written whole or not at all."""

import os
import tempfile
from pathlib import Path

from corral.errors import CorralError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old content or the new, never a part.

    Raises:
        CorralError: the disk is full or the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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
