"""Progress of long work: a live line with rate and time left on a terminal, plain lines in a log."""

import os
import sys
import time
from types import TracebackType
from typing import TextIO

from corral.terminal import printable

LIVE_SECONDS = 0.2
LOG_SECONDS = 15.0


def duration(seconds: float) -> str:
    """Seconds as "41 s", "3 min 20 s" or "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


# Not rich (15.0, which typer brings): in a log its bar is one line at the end, and importing it takes 0.15 s. Not tqdm
# (4.70): in a log it writes one line of \r. With either, the lines of a log would remain to be written here.
class Progress:
    """A counter over `total` units that reports itself on `stream` (stderr by default).

    On a terminal one line is redrawn a few times a second; elsewhere a plain line is written every 15 seconds, so a
    log stays readable. `enabled=False` keeps it silent. `scale` is how much of what is counted makes one `unit` of the
    line (1e6 for bytes shown as MB); a `total` of 0 is not known. Its methods are those that pooch asks of a bar.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        *,
        scale: float = 1,
        enabled: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self.title, self.total, self.unit, self.scale, self.enabled = title, total, unit, scale, enabled
        # A process may have been started without standard error.
        self.stream = stream or sys.stderr or open(os.devnull, "w")  # noqa: SIM115
        self.live = self.stream.isatty()
        self.done, self.note = 0, ""
        self.started = self.shown = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Clear the live line."""
        if self.enabled and self.live:
            self._write("\r\x1b[K")

    def reset(self) -> None:
        """Count from nothing again; pooch does so before it counts a finished download as a whole."""
        self.done = 0

    def advance(self, units: int, note: str = "") -> None:
        """Count `units` more and show the line when it is due."""
        self.done += units
        self.note = note or self.note
        moment = time.monotonic()
        if self.enabled and moment - self.shown >= (LIVE_SECONDS if self.live else LOG_SECONDS):
            self.shown = moment
            self._write(f"\r{printable(self.line())}\x1b[K" if self.live else f"{printable(self.line())}\n")

    update = advance  # as pooch calls it

    def line(self) -> str:
        """The progress as one line of text."""
        elapsed = time.monotonic() - self.started
        rate = self.done / elapsed if elapsed > 0 else 0.0
        left = duration((self.total - self.done) / rate) if rate > 0 and self.total else "?"
        note = f"  {self.note}" if self.note else ""
        if self.scale != 1:
            done, total = (f"{count / self.scale:.1f}" for count in (self.done, self.total))
            speed = f"{rate / self.scale:.1f} {self.unit}/s"
        else:
            done, total = str(self.done), str(self.total)
            speed = f"{rate:,.0f}/s" if rate >= 1 or rate == 0 else f"{1 / rate:.1f} s each"
        return f"{self.title}  {done}/{total if self.total else '?'} {self.unit}  {speed}  {left} left{note}"

    def say(self, text: str) -> None:
        """Write a lasting line above the live one."""
        if self.enabled:
            self._write(f"\r\x1b[K{printable(text)}\n" if self.live else f"{printable(text)}\n")

    def _write(self, text: str) -> None:
        # The command line's own streams show control characters as escapes, but for these.
        getattr(self.stream, "control", self.stream.write)(text)
        self.stream.flush()
