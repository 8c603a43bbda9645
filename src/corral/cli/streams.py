"""Standard output and error: whatever is written there goes through here."""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from corral.errors import CorralError
from corral.terminal import printable


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
            stream = open(os.devnull, mode)  # noqa: SIM115
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
    with contextlib.suppress(OutputError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
