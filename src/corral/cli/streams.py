"""Standard output and error: whatever is written there goes through here."""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO

from corral.errors import CorralError
from corral.terminal import printable

Colour = Literal["red", "yellow", "green"]
CODES: dict[Colour, int] = {"red": 31, "yellow": 33, "green": 32}


class OutputError(CorralError):
    """Standard output or error cannot be written; without words where its reader has gone."""


class Terminal:
    """A text stream that shows no control characters and takes every character, whatever its encoding."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        # The command line's library writes past a stream that it believes to be of ASCII.
        self.encoding = "utf-8" if stream.encoding.lower() in ("ascii", "ansi_x3.4-1968") else stream.encoding

    def write(self, text: str) -> int:
        """Write a text, its control characters as escapes."""
        self.control(printable(text))
        return len(text)

    def control(self, text: str) -> None:
        """Write a text that may move the cursor."""
        own = self._stream.encoding
        with _written():
            self._stream.write(text.encode(own, "backslashreplace").decode(own))

    def flush(self) -> None:
        """Hand on what was written."""
        with _written():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise OutputError("") from error
    except OSError as error:
        raise OutputError(f"cannot write the output ({error.strerror})") from error


def install() -> None:
    """Make the standard streams terminals; those that were closed go to the null device."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # in this order each gets its own number, which no file may have
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
        setattr(sys, name, stream if mode == "r" or isinstance(stream, Terminal) else Terminal(stream))


def abandon() -> None:
    """Send to the null device what a standard stream still holds and cannot write."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OutputError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def complain(line: str) -> None:
    """Write the last line of a command that failed."""
    word, colon, rest = line.partition(": ")
    with contextlib.suppress(OutputError):
        say(word + colon, rest, "red", err=True)


def say(lead: str, rest: str, colour: Colour | None, *, err: bool = False) -> None:
    """Write a line whose beginning has a colour, where the stream is a terminal that is to show some."""
    stream = sys.stderr if err else sys.stdout
    control = getattr(stream, "control", stream.write)
    if colour is not None and shows_colour(stream):
        control(f"\x1b[{CODES[colour]}m")
        stream.write(lead)
        control("\x1b[0m")
    else:
        stream.write(lead)
    stream.write(f"{rest}\n")
    stream.flush()


def shows_colour(stream: Any) -> bool:
    """Whether a stream is a terminal, and the user has not asked for no colour (https://no-color.org)."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
