"""Memory for pixels: in RAM, or a memory-mapped temporary file where they may be more than it holds."""

import tempfile

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from corral.errors import CorralError

# From so many bytes on pixels lie in a temporary file and are read from there row by row; bytes written at once.
IN_MEMORY, WRITTEN = 2 * 2**30, 2**24
# Rows copied at once.
ROWS = 256


def allocate(shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> NDArray[np.generic]:
    """An array to write to: in memory, or from 2 GiB on in a temporary file that goes with the process (TMPDIR).

    Raises:
        CorralError: the disk is full.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size < IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as stream:  # the map keeps the file, which has no name, until it goes itself
        try:
            # Written, not left sparse: a disk that fills up later would kill the process.
            for left in range(size, 0, -WRITTEN):
                stream.write(bytes(min(left, WRITTEN)))
            stream.flush()
        except OSError as error:
            raise CorralError(
                f"{tempfile.gettempdir()}: no room for {size:,} bytes of decoded pixels ({error.strerror}); "
                "set TMPDIR to a folder that has it"
            ) from error
        return np.memmap(stream, dtype, "r+", shape=shape)


def rows_of(pixels: Tensor, rows: Tensor) -> Tensor:
    """`pixels[rows]`; from 2 GiB on the copy of a CPU tensor lies in a temporary file.

    Args:
        pixels: (N, ...).
        rows: (n,) int64 indices, or an (N,) boolean mask, on its device.
    """
    if rows.dtype == torch.bool:
        rows = rows.nonzero().squeeze(1)
    size = len(rows) * pixels[:1].numel() * pixels.element_size()
    if pixels.device.type != "cpu" or size < IN_MEMORY:
        return pixels[rows]
    found = torch.from_numpy(allocate((len(rows), *pixels.shape[1:]), pixels[:0].numpy().dtype))
    for begin in range(0, len(rows), ROWS):
        found[begin : begin + ROWS] = pixels[rows[begin : begin + ROWS]]
    return found


def stacked(first: Tensor, second: Tensor) -> Tensor:
    """`torch.cat([first, second])`; from 2 GiB on the result of CPU tensors lies in a temporary file."""
    size = (len(first) + len(second)) * first[:1].numel() * first.element_size()
    if first.device.type != "cpu" or size < IN_MEMORY:
        return torch.cat([first, second])
    found = torch.from_numpy(allocate((len(first) + len(second), *first.shape[1:]), first[:0].numpy().dtype))
    for part, offset in ((first, 0), (second, len(first))):
        for begin in range(0, len(part), ROWS):
            taken = part[begin : begin + ROWS]
            found[offset + begin : offset + begin + len(taken)] = taken
    return found
