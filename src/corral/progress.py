"""Progress of long work: a live line with rate and time left on a terminal or in a notebook, plain in a log."""

import io
import sys
import time
from types import TracebackType
from typing import TextIO

from corral.notebook import is_kernels
from corral.terminal import printable

# Between two lines. A notebook keeps every line in its file, those that were written over too.
LIVE_SECONDS, NOTEBOOK_SECONDS, LOG_SECONDS = 0.2, 1.0, 15.0


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

    On a terminal one line is redrawn a few times a second, in a notebook once; elsewhere a plain line is written every
    15 seconds, so a log stays readable. `enabled=False` keeps it silent. `scale` is how much of what is counted makes
    one `unit` of the line (1e6 for bytes shown as MB); a `total` of 0 is not known. Its methods are those that pooch
    asks of a bar.
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
        self.title, self.total, self.unit, self.scale = title, total, unit, scale
        # A process may have been started without standard error.
        self.enabled, self.stream = enabled, stream or sys.stderr or io.StringIO()
        self.notebook = is_kernels(self.stream)
        self.live = self.notebook or self.stream.isatty()
        self.seconds = NOTEBOOK_SECONDS if self.notebook else LIVE_SECONDS if self.live else LOG_SECONDS
        self.width = 0
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
            self._over("", end="\r" if self.notebook else "")

    def reset(self) -> None:
        """Count from nothing again; pooch does so before it counts a finished download as a whole."""
        self.done = 0

    def advance(self, units: int, note: str = "") -> None:
        """Count `units` more and show the line when it is due."""
        self.done += units
        self.note = note or self.note
        moment = time.monotonic()
        if self.enabled and moment - self.shown >= self.seconds:
            self.shown = moment
            self._show(printable(self.line()), lasting=not self.live)

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
            self._show(printable(text), lasting=True)

    def _show(self, text: str, *, lasting: bool) -> None:
        """Write a line, where there is a live one in its place; one that is not lasting is the live one then."""
        if not self.live:
            self._write(f"{text}\n")
        else:
            self._over(text, end="\n" if lasting else "")

    def _over(self, text: str, *, end: str) -> None:
        """Write a text in the place of the live line."""
        if self.notebook:  # which knows no erasing: spaces cover the rest
            start = "\r" if self.width else ""
            if text or self.width:
                self._write(f"{start}{text.ljust(self.width)}{end}")
            self.width = 0 if end else len(text)
        else:
            self._write(f"\r\x1b[K{text}{end}" if end else f"\r{text}\x1b[K")

    def _write(self, text: str) -> None:
        # The command line's own streams show control characters as escapes, but for these.
        getattr(self.stream, "control", self.stream.write)(text)
        self.stream.flush()
