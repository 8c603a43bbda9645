"""What training takes: seconds of the wall clock, and seconds of work, which hardly grow with other programs' load."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

# Whose seconds the work is counted in.
WorkClock = Literal["cpu", "device"]


class Clock:
    """Counts the seconds of the blocks that it runs in.

    On a CPU, work is the process's CPU time, user and system, of all its threads ("cpu"): a process that waits does not
    count. On a GPU it is the wall clock from one synchronisation of the device to another ("device").

    Attributes:
        wall: seconds of the wall clock so far.
        work: seconds of work so far; None where a run goes on from a checkpoint that does not know them.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.wall = 0.0
        self.work: float | None = 0.0

    @property
    def kind(self) -> WorkClock:
        """What `work` counts."""
        return "device" if self.device.type == "cuda" else "cpu"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens in the block; a block that raises is not counted."""
        wall, work = self._now()
        yield
        wall_now, work_now = self._now()
        self.wall += wall_now - wall
        if self.work is not None:
            self.work += work_now - work

    def _now(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        wall = time.perf_counter()
        return wall, wall if self.kind == "device" else time.process_time()
