"""Arrays of a record, written whole."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corral.files import write_atomically


def write_arrays(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write named arrays as a compressed .npz, atomically.

    Raises:
        CorralError: the file cannot be written.
    """
    stream = io.BytesIO()
    named: Any = arrays  # numpy's stubs take a dictionary's values for its own flags
    np.savez_compressed(stream, **named)
    write_atomically(path, stream.getvalue())
