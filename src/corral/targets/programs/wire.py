"""Messages between a process and the one that runs a program: a JSON header, then raw numbers; nothing is unpickled.

What comes from the program's process is not trusted: sizes are bounded, and bytes become numbers of named types only.
"""

import json
import math
import struct
from typing import Any, BinaryIO

import torch
from torch import Tensor

SIZES = struct.Struct(">IQ")
MOST_HEADER = 1 << 20
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8)
} | {"bool": torch.bool}


class WireError(Exception):
    """What arrived is no message."""


def send(stream: BinaryIO, header: dict[str, Any], content: bytes | memoryview = b"") -> None:
    """Write one message; OSError where nobody reads."""
    words = json.dumps(header).encode()
    stream.write(SIZES.pack(len(words), len(content)))
    stream.write(words)
    stream.write(content)
    stream.flush()


def receive(stream: BinaryIO, most: int) -> tuple[dict[str, Any], bytearray]:
    """Read one message of at most so many bytes of content.

    Raises:
        EOFError: the other side is gone.
        WireError: no message, or a larger one.
    """
    header_size, size = SIZES.unpack(_exactly(stream, SIZES.size))
    if header_size > MOST_HEADER or size > most:
        raise WireError(f"a message of {header_size} and {size} bytes")
    try:
        header = json.loads(bytes(_exactly(stream, header_size)))
    except (ValueError, RecursionError) as error:
        raise WireError(f"a message that is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise WireError("a message that is no JSON object")
    return header, _exactly(stream, size)


def _exactly(stream: BinaryIO, size: int) -> bytearray:
    content = bytearray(size)
    view, count = memoryview(content), 0
    while count < size:
        found = stream.readinto(view[count:])  # type: ignore[attr-defined]
        if not found:
            raise EOFError
        count += found
    return content


def packed(tensor: Tensor) -> tuple[dict[str, Any], memoryview]:
    """What a header says of a tensor, and its numbers; ValueError for a type that no message carries."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in DTYPES or tensor.layout != torch.strided:
        raise ValueError(f"a tensor of {tensor.dtype} and {tensor.layout}")
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    numbers: Any = flat.view(torch.uint8).numpy()
    return {"dtype": name, "shape": list(tensor.shape)}, memoryview(numbers)


def unpacked(header: dict[str, Any], content: bytearray) -> Tensor:
    """The tensor of a message, on the CPU; WireError where the header and the numbers do not fit."""
    dtype, shape = DTYPES.get(str(header.get("dtype"))), header.get("shape")
    if dtype is None or not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise WireError("a tensor without type or shape")
    count = math.prod(shape)
    if count * dtype.itemsize != len(content):
        raise WireError(f"{len(content)} bytes for a tensor of {shape}")
    return torch.frombuffer(content, dtype=dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
