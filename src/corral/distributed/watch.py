"""Signs of life between processes: one that is lost is named, and ends the others' work in a stated time."""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist

from corral.errors import CorralError
from corral.terminal import one_line

# A process gives a sign so often, and is lost where none came for so long.
BEAT_SECONDS, SILENT_SECONDS = 1.0, 30.0
# What the main thread may take to see for itself that another process is gone.
GRACE_SECONDS = 5.0
REMEDY = "what is finished is kept: the same command goes on, train with --resume, also on other numbers of devices"


class LostRankError(CorralError):
    """Another process is gone, or failed."""


class Watch:
    """Watches over the other processes by a store that lies in rank 0's.

    Rank 0 watches all others and they watch it; what one finds, or says of itself, all know a second later.

    Args:
        store: that all of them reach.
        rank, size: of this process.
    """

    def __init__(
        self,
        store: dist.Store,  # type: ignore[name-defined]
        rank: int,
        size: int,
    ) -> None:
        self.store, self.rank, self.size = store, rank, size
        self.verdict: str | None = None
        self.found, self.done = threading.Event(), threading.Event()
        store.set(f"who/{rank}", f"{socket.gethostname()}, process {os.getpid()}")
        store.set(f"beat/{rank}", "0")
        others = [f"{key}/{number}" for number in range(size) for key in ("who", "beat")]
        store.wait(others)
        self.who = [store.get(f"who/{number}").decode(errors="replace") for number in range(size)]
        store.set_timeout(timedelta(seconds=SILENT_SECONDS))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch in the block."""
        self.done.clear()
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.done.set()
            # Python aborts a process that ends while a thread is in a call of the store.
            thread.join(SILENT_SECONDS)

    def tell(self, words: str) -> None:
        """Tell all others that this process ends, and why."""
        with suppress(RuntimeError):  # rank 0 may be gone
            self.store.set("lost", words)

    def lost(self, error: RuntimeError) -> LostRankError:
        """What a collective's failure comes from; waits until it is known."""
        self.found.wait(SILENT_SECONDS + 5 * BEAT_SECONDS)
        words = self.verdict or f"an exchange failed ({one_line(str(error))[:200]})"
        return LostRankError(f"{words}; {REMEDY}")

    def _watch(self) -> None:
        watched = range(1, self.size) if self.rank == 0 else range(1)
        seen = {number: ("", time.monotonic()) for number in watched}
        count = 0
        while not self.done.wait(BEAT_SECONDS):
            count += 1
            try:
                self.store.set(f"beat/{self.rank}", str(count))
                if self.store.check(["lost"]):
                    self._end(self.store.get("lost").decode(errors="replace"))
                    return
                for number in watched:
                    beat, now = self.store.get(f"beat/{number}").decode(), time.monotonic()
                    if beat != seen[number][0]:
                        seen[number] = beat, now
                    elif now - seen[number][1] > SILENT_SECONDS:
                        words = f"rank {number} ({self.who[number]}) gave no sign of life for {SILENT_SECONDS:g} s"
                        self.tell(words)
                        self._end(words)
                        return
            except RuntimeError:  # the store is rank 0's
                if not self.done.wait(BEAT_SECONDS):
                    self._end(f"rank 0 ({self.who[0]}) was lost")
                return

    def _end(self, words: str) -> None:
        """Let the main thread end the work; where it waits for a process that is gone, end this one."""
        self.verdict = words
        self.found.set()
        if self.done.wait(GRACE_SECONDS):
            return
        if self.rank == 0 or (self.rank == 1 and words.startswith("rank 0 ")):
            with suppress(OSError, ValueError):
                print(f"corral: {one_line(f'{words}; {REMEDY}')}", file=sys.stderr, flush=True)
        os._exit(1)
