"""Seconds of training: of the wall clock, and of work, which other programs' load hardly changes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from corral.strict import WorkClock


class Clock:
    """Counts the seconds of the blocks that it runs in, of the wall clock and of work.

    On a CPU, work ("cpu") is the process's CPU time, user and system, of all its threads. On a GPU ("device") it is the
    wall clock between synchronisations of the device. `work` is None where a run resumes from a checkpoint without it.
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
