"""SIGINT, SIGTERM and SIGHUP: one line, the exit code of the signal, at whatever moment they come.

Every file is written whole or not at all, so that a process may end anywhere. Work that has something to close
(loggers, workers) is unwound by an exception; all else ends at once: imports, the command line's own parsing, printing.
"""

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from corral.terminal import printable

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
# What unwinding may take; then, and at a second signal, the process ends at once.
PATIENCE_SECONDS = 8


class _State:
    """What the handlers know: the signal received, and the words of the work that is going on."""

    received: int | None = None
    kept: Callable[[], str] | None = None
    said = False


def install() -> None:
    """Handle the signals that end a process, but for those that it was started to ignore (nohup)."""
    for name in NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    sys.unraisablehook = _unraisable


def _unraisable(found: Any) -> None:
    # An interruption that came in a callback or a destructor, whose caller does not see it.
    if isinstance(found.exc_value, KeyboardInterrupt) and _State.received is not None:
        end()
    sys.__unraisablehook__(found)


def received() -> bool:
    """Whether such a signal came: whatever is raised then is its consequence."""
    return _State.received is not None


@contextmanager
def working(kept: Callable[[], str]) -> Iterator[None]:
    """A block that a signal unwinds by `KeyboardInterrupt`; `kept` says then what is kept."""
    before, _State.kept = _State.kept, kept
    try:
        yield
    finally:
        _State.kept = before


def exit_code() -> int:
    """128 and the signal's number; 130 for an interruption that was no signal's."""
    return 128 + (_State.received or signal.SIGINT)


def last_line(kept: Callable[[], str] | None = None) -> str:
    """The one line of an interrupted command."""
    number = _State.received or signal.SIGINT
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    return f"corral: interrupted{by}{f'; {kept()}' if kept else ''}"


def end() -> None:
    """End the process now, with its line below a progress line if there is one."""
    line = b"" if _State.said else printable(last_line(_State.kept)).encode(errors="backslashreplace") + b"\n"
    with contextlib.suppress(OSError):  # nobody reads it any more
        os.write(2, (b"\r\x1b[K" if os.isatty(2) else b"") + line)
    os._exit(exit_code())


def leave() -> None:
    """End the process with the signal's exit code, now that the work is unwound.

    Python's own end would be a death by SIGINT, whatever the exit code, where the interruption came in code that `exec`
    runs, as in the making of a dataclass.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
    os._exit(exit_code())


def unwound(kept: Callable[[], str]) -> str:
    """The last line of work that was unwound; it is not said again where the process takes long to end."""
    _State.said = True
    return last_line(kept)


def _handle(number: int, frame: FrameType | None) -> None:
    first, _State.received = _State.received is None, _State.received or number
    if _State.kept is None or not first:
        end()
    if hasattr(signal, "setitimer"):
        # The work may be foreign code that catches everything.
        signal.signal(signal.SIGALRM, lambda *_: end())
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
    raise KeyboardInterrupt
