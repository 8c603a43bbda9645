"""Progress of a download: one line that moves on a terminal, a plain line every quarter elsewhere."""

import sys


class Progress:
    """What pooch calls while it downloads; it writes to standard error.

    Args:
        name: the file that is being fetched.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.total = 0
        self._done = 0
        self._shown = -1
        self._moving = sys.stderr.isatty()

    def update(self, amount: int) -> None:
        """Note that `amount` more bytes have come."""
        self._done += amount
        # A terminal line is cheap to rewrite; a log should not fill up with one data set.
        step = 1 if self._moving else 25
        percent = min(100, 100 * self._done // self.total) // step * step if self.total else 0
        if percent != self._shown:
            self._shown = percent
            size = f"{self.total / 1e6:.1f} MB" if self.total else "size unknown"
            line = f"fetching {self.name}: {percent:3d}% of {size}"
            sys.stderr.write(f"\r{line}" if self._moving else f"{line}\n")
            sys.stderr.flush()

    def reset(self) -> None:
        """Start again at nothing; pooch does this to fill the bar at the end."""
        self._done = 0

    def close(self) -> None:
        """Nothing is left to do when a download ends well; `end` closes the line in every case."""

    def end(self) -> None:
        """Leave the moving line, so that what is written next starts on its own."""
        if self._moving and self._shown >= 0:
            sys.stderr.write("\n")
