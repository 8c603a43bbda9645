"""Ways to damage a file: flipped bits, cuts, spans moved or repeated, numbers made extreme; in archives also inside."""

import io
import random
import re
import zipfile
import zlib
from collections.abc import Callable

# What a number in a text becomes.
EXTREME = (
    b"0", b"-1", b"1e308", b"1e39", b"-1e400", b"NaN", b"Infinity", b"9" * 20, b"9" * 4400, b"18446744073709551616",
    b"4294967295", b"0.0", b"true", b"null", b'"x"', b"[]", b"{}",
)  # fmt: skip
# What bytes are overwritten by: ends of the integer types, little and big.
BYTES = (
    b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\xff" * 4, b"\xff" * 8,
    b"\x00" * 4, b"\x00" * 8, b"\xff" * 7 + b"\x7f", b"\xed\xa0\x80", b"\n", b'"', b"\\", b"[" * 3000, b"{" * 3000,
)  # fmt: skip
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
WORD = re.compile(rb"[A-Za-z_]{3,}")


def _place(content: bytes, rng: random.Random) -> int:
    """Somewhere, more often in the head: that is where the sizes are."""
    return rng.randrange(max(1, min(len(content), 256) if rng.random() < 0.4 else len(content)))


def flip(content: bytes, rng: random.Random) -> bytes:
    """One bit."""
    if not content:
        return content
    changed = bytearray(content)
    changed[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(content: bytes, rng: random.Random) -> bytes:
    """A few bytes by extreme ones."""
    at, by = _place(content, rng), rng.choice(BYTES)
    return content[:at] + by + content[at + len(by) :]


def insert(content: bytes, rng: random.Random) -> bytes:
    """Extreme bytes in between."""
    at = _place(content, rng)
    return content[:at] + rng.choice(BYTES) + content[at:]


def cut(content: bytes, rng: random.Random) -> bytes:
    """The end away."""
    return content[: rng.randrange(len(content) + 1)]


def remove(content: bytes, rng: random.Random) -> bytes:
    """A span away."""
    at = _place(content, rng)
    return content[:at] + content[at + rng.randrange(1, 64) :]


def repeat(content: bytes, rng: random.Random) -> bytes:
    """A span twice."""
    at = _place(content, rng)
    return content[: at + rng.randrange(1, 64)] + content[at:]


def swap(content: bytes, rng: random.Random) -> bytes:
    """Two spans exchanged."""
    size = rng.randrange(1, 32)
    a, b = sorted((_place(content, rng), _place(content, rng)))
    if b - a < size:
        return content
    return content[:a] + content[b : b + size] + content[a + size : b] + content[a : a + size] + content[b + size :]


def number(content: bytes, rng: random.Random) -> bytes:
    """A number of a text by an extreme one."""
    found = list(NUMBER.finditer(content[:200_000]))
    if not found:
        return overwrite(content, rng)
    one = rng.choice(found)
    return content[: one.start()] + rng.choice(EXTREME) + content[one.end() :]


def word(content: bytes, rng: random.Random) -> bytes:
    """A word of a text by another one of it."""
    found = list(WORD.finditer(content[:200_000]))
    if len(found) < 2:
        return flip(content, rng)
    one, other = rng.sample(found, 2)
    return content[: one.start()] + other[0] + content[one.end() :]


WAYS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip, flip, overwrite, insert, cut, remove, repeat, swap, number, number, word,
)  # fmt: skip


def inside(content: bytes, rng: random.Random) -> bytes:
    """Damage in a member of an archive, whose checksums are right again, so that readers get past them."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError):
        return flip(content, rng)
    chosen = rng.randrange(len(members))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for place, (info, member) in enumerate(members):
            info.file_size = 0
            archive.writestr(info, mutated(member, rng, archives=False) if place == chosen else member)
    return stream.getvalue()


def mutated(content: bytes, rng: random.Random, *, archives: bool = True) -> bytes:
    """A damaged copy: one to three ways, one after the other."""
    if archives and content[:2] == b"PK" and rng.random() < 0.7:
        return inside(content, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(WAYS)(content, rng)
    return content
