"""Files that a user or another machine wrote: regular ones, within the memory, and one line where one is damaged.

One file is read into half of the machine's memory at most, unpacked: what claims to need more is refused before it is
read. Parsers that can die run in a process of their own (`corral.processes`).
"""

import contextlib
import json
import lzma
import math
import os
import stat
import struct
import sys
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

from corral.errors import CorralError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What zipfile, its decompressors and numpy's header parser raise where an archive is damaged.
DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, TokenError, SyntaxError, EOFError, OSError),
    *(ValueError, TypeError, OverflowError, MemoryError, RecursionError, NotImplementedError, RuntimeError),
)
# A document of ours is far smaller; a recipe, whose parser is slow, has a few kilobytes.
MOST_TEXT, MOST_RECIPE = 256 << 20, 1 << 20
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# The largest whole number that a document or a recipe may hold: what JSON, TOML and torch agree on.
MOST_WHOLE = 2**63 - 1
# Where Linux states the memory that a container may use.
CONTAINER = Path("/sys/fs/cgroup/memory.max")


def memory_bytes() -> int:
    """Memory of this machine, or what the container allows; without end where neither is known (Windows)."""
    limits = [MOST_WHOLE]
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        limits.append(int(CONTAINER.read_text(encoding="ascii")))
    return min(limits)


def most_bytes() -> int:
    """What one file, unpacked, may be read into: half of the memory, for the numbers are copied once."""
    return memory_bytes() // 2


def check_file(path: Path, *, remedy: str, most: int | None = None) -> int:
    """The size in bytes of a regular file; reading a pipe would wait for ever, and some devices never end.

    Args:
        path: the file, or a link to one.
        remedy: what a message ends with.
        most: bytes that it may have; by default `most_bytes`.

    Raises:
        CorralError: absent, not a regular file, or larger than that.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CorralError(f"{path}: cannot be read ({reason}); {remedy}") from error
    if not stat.S_ISREG(found.st_mode):
        what = KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise CorralError(f"{path}: {what}, expected a regular file; {remedy}")
    most = most_bytes() if most is None else most
    if found.st_size > most:
        raise CorralError(f"{path}: {found.st_size:,} bytes, expected at most {most:,}; {remedy}")
    return found.st_size


def read_bytes(path: Path, *, remedy: str, most: int | None = None) -> bytes:
    """The content of a regular file.

    Raises:
        CorralError: as `check_file`, or it cannot be read.
    """
    check_file(path, remedy=remedy, most=most)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorralError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def parse_json(text: str | bytes) -> Any:
    """A JSON text; NaN, infinite and endless numbers, nesting without end and lone surrogates are refused.

    Raises:
        ValueError: what is wrong with it.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    check_values(content)
    return content


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML text; numbers beyond 64 bits and nesting without end are refused.

    Raises:
        ValueError: what is wrong with it.
    """
    try:
        content = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    check_values(content)
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a measurement")


def check_values(content: Any) -> None:
    """Refuse values that no later step could hold; without recursion, for nesting may be deep.

    Raises:
        ValueError: a number that is not finite or beyond 64 bits, or a lone surrogate.
    """
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            left += value
        elif isinstance(value, int) and abs(value) > MOST_WHOLE:
            raise ValueError("a whole number beyond 64 bits")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        elif isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ValueError("a text with half a character (a lone surrogate)") from error


@contextmanager
def opened_zip(
    path: Path, *, problem: str, remedy: str, content: bytes | None = None
) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """A zip archive and its members, which together fit the memory; damages that show in the block are one line too.

    Args:
        path: the file.
        problem: what a message says of a damaged one.
        remedy: what a message ends with.
        content: of the file, where it is not to be read from there.

    Raises:
        CorralError: as `check_file`, not an archive, damaged, or larger unpacked than the memory allows.
    """
    if content is None:
        check_file(path, remedy=remedy)
    try:
        with zipfile.ZipFile(path if content is None else BytesIO(content)) as archive:
            members = archive.infolist()
            size, most = sum(member.file_size for member in members), most_bytes()
            if size > most:
                raise CorralError(f"{path}: {size:,} bytes unpacked, expected at most {most:,}; {remedy}")
            yield archive, members
    except DAMAGED as error:
        raise CorralError(f"{path}: {problem} ({first_line(error)}); {remedy}") from error


def read_arrays(
    path: Path, *, kind: str = "an .npz file", remedy: str, content: bytes | None = None
) -> dict[str, "NDArray[Any]"]:
    """The arrays of an .npz file by name; nothing is unpickled, and nothing allocated that the file does not hold.

    Args:
        path: the file.
        kind: what a message calls what it should be.
        remedy: what a message ends with.
        content: of the file, where it is not to be read from there.

    Raises:
        CorralError: as `opened_zip`; an array that is damaged, of Python objects, or whose stated shape is not that of
            its bytes.
    """
    arrays = {}
    problem = f"not {kind}, or truncated"
    with opened_zip(path, problem=problem, remedy=remedy, content=content) as (archive, members):
        for member in members:
            if not member.filename.endswith(".npy"):
                continue
            name = member.filename.removesuffix(".npy")
            try:
                arrays[name] = _array(archive, member)
            except DAMAGED as error:
                words = first_line(error)
                raise CorralError(f"{path}: not {kind}, array {name} is damaged ({words}); {remedy}") from error
    return arrays


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> "NDArray[Any]":
    """One array, its header checked before anything of its size is made; ValueError where it is not what it says."""
    import numpy as np  # late: recipes and documents do without it, and so does the shell's completion

    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"header version {version[0]}.{version[1]}")
        shape, by_columns, dtype = readers[version](stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are not unpickled: store numbers or text")
        content = stream.read()
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != len(content) or min(shape, default=1) < 0:
        raise ValueError(f"{dtype} of shape {shape} is {wanted:,} bytes, found {len(content):,}")
    if dtype.kind == "U":
        codes = np.frombuffer(content, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if ((codes > sys.maxunicode) | ((codes >= 0xD800) & (codes < 0xE000))).any():
            raise ValueError("it holds letters that are none")
    flat = np.frombuffer(content, dtype, count=math.prod(shape)) if wanted else np.zeros(math.prod(shape), dtype)
    return flat.reshape(shape, order="F" if by_columns else "C").copy()


def first_line(error: BaseException) -> str:
    """The first line of an error that has one, or its name."""
    lines = str(error).splitlines()
    return lines[0] if lines and lines[0] else type(error).__name__
