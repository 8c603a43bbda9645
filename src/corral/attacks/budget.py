"""A time budget: a deadline that ends attacks at the model's next pass, and the batches that fit before it."""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corral.attacks.attack import Attack
from corral.attacks.outcome import Outcome
from corral.attacks.wrapped_model import image_gradient
from corral.progress import Progress, duration

# What an attack does beside the model's pass, until its own passes have been timed.
OVERHEAD_SECONDS = 2e-3
# Fewer passes than this are no measurement.
ENOUGH_PASSES = 20
MEASURED = (1, 8, 64)
# A batch may take at most this share of the time left if no attack on it succeeds, the first batch and later ones:
# estimates err, before a whole batch was timed all the more, and a batch that the deadline cuts off is lost.
FIRST_SHARE, SHARE = 0.5, 0.8
# The first attack's own cost is timed on this many images before any batch is chosen, in this share of what is left.
PROBED, PROBE_SHARE = 8, 0.05
MEASURE_SECONDS, REPEATED = 2.0, 3


class BudgetEndedError(BaseException):
    """The deadline passed in the middle of an attack; like an interruption it is no error to handle."""


class Budget:
    """A span of time from now on, in seconds of a monotonic clock."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.seconds = clock, seconds
        self.start = clock()
        self.end = self.start + seconds

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.start

    @property
    def left(self) -> float:
        """Seconds until the end; negative after it."""
        return self.end - self.clock()

    @contextmanager
    def enforced(self, model: nn.Module, deadline: float, tick: Callable[[], None] | None = None) -> Iterator[None]:
        """Raise `BudgetEndedError` from the model's next forward pass after `deadline`, a moment of the clock.

        Args:
            tick: called before every forward pass, to show progress.
        """

        def check(*_: object) -> None:
            if self.clock() >= deadline:
                raise BudgetEndedError
            if tick is not None:
                tick()

        hook = model.register_forward_pre_hook(check)
        try:
            yield
        finally:
            hook.remove()


class Pace:
    """How long passes take, measured, and from it the longest that a protocol can take on k images.

    Args:
        forward: seconds of a forward pass, by batch size.
        gradient: seconds of a forward and backward pass, by the same batch sizes.

    Attributes:
        steps, queries: gradient steps and gradient-free passes of the protocol over an image that is robust to it.
    """

    def __init__(self, forward: dict[int, float], gradient: dict[int, float]) -> None:
        self.forward, self.gradient = forward, gradient
        self.steps = self.queries = 0
        # Beside a model's pass: of a gradient step, and of a pass without a gradient.
        self._overhead = {True: OVERHEAD_SECONDS, False: OVERHEAD_SECONDS}

    def expect(self, attacks: Sequence[Attack]) -> None:
        """Count the passes of a protocol by its attacks' settings."""
        self.steps = self.queries = 0
        for attack in attacks:
            settings = dict(attack.settings)
            self.queries += int(settings.get("queries", 0))
            targets = int(settings.get("targets", 0)) or 1
            self.steps += int(settings.get("steps", 0)) * int(settings["restarts"]) * targets

    def observe(self, passes: int, images: int, seconds: float, *, gradients: bool) -> None:
        """Learn from an attack that made so many passes over so many images in all, what it costs beside them."""
        if passes >= ENOUGH_PASSES:
            beside = seconds / passes - _interpolated(self.gradient if gradients else self.forward, images / passes)
            self._overhead[gradients] = max(beside, 0.0)

    def worst(self, k: int) -> float:
        """Seconds that a batch of k images takes if no attack succeeds."""
        step = self.gradient_seconds(k) + self._overhead[True]
        query = self.forward_seconds(k) + self._overhead[False]
        return self.steps * step + self.queries * query

    def fitting(self, seconds: float, most: int) -> int:
        """The largest batch, at most `most` images, that is done in `seconds` at worst; 0 if none is."""
        return bisect_right(range(1, most + 1), seconds, key=self.worst)

    def gradient_seconds(self, k: int) -> float:
        """Seconds of one forward and backward pass over k images."""
        return _interpolated(self.gradient, k)

    def forward_seconds(self, k: int) -> float:
        """Seconds of one forward pass over k images."""
        return _interpolated(self.forward, k)


class Paced:
    """A budget with the pace of a model, which it updates: how many images a batch may have, and when it ends."""

    def __init__(self, budget: Budget, pace: Pace) -> None:
        self.budget, self.pace = budget, pace

    def begin(
        self, attacks: Sequence[Attack], model: nn.Module, images: Callable[[int], tuple[Tensor, Tensor]], *, seed: int
    ) -> None:
        """Learn what the attacks cost: from their settings, and the first one from a run on a few images.

        Args:
            attacks: those of every batch to come.
            model: inside `attacked`.
            images: a number to at most so many images that are classified right, and their labels.
            seed: of the run.
        """
        self.pace.expect(attacks)
        x, y = images(PROBED)
        if len(x):
            with suppress(BudgetEndedError):
                self._timed(attacks[0], model, x, y, seed, self.budget.clock() + PROBE_SHARE * self.budget.left, None)

    def size(self, done: int, most: int) -> int:
        """How many images the next batch has, at most `most`; 0 if what is left may not hold one."""
        share = (SHARE if done else FIRST_SHARE) * self.budget.left
        # What is left may hold one image even where a share of it does not.
        return self.pace.fitting(share, most) or self.pace.fitting(self.budget.left, 1)

    def run(
        self, attack: Attack, model: nn.Module, x: Tensor, y: Tensor, *, seed: int, bar: Progress | None
    ) -> Outcome:
        """One attack on a batch, or BudgetEndedError after the deadline; `bar` shows what is left of the budget."""
        return self._timed(attack, model, x, y, seed, self.budget.end, bar)

    def _timed(
        self, attack: Attack, model: nn.Module, x: Tensor, y: Tensor, seed: int, deadline: float, bar: Progress | None
    ) -> Outcome:
        passes, images, start, gradients = 0, 0, self.budget.spent, True

        def tick() -> None:
            nonlocal passes
            passes += 1
            if bar is not None:
                bar.advance(0, f"{attack.name}, {duration(max(0.0, self.budget.left))} of the budget left")

        try:
            with self.budget.enforced(model, deadline, tick):
                outcome = attack.run(model, x, y, seed=seed)
            images, gradients = outcome.forwards, outcome.backwards > 0
        except BudgetEndedError:
            images = passes * len(x)  # as if no attack had succeeded yet
            raise
        finally:
            if images:
                self.pace.observe(passes, images, self.budget.spent - start, gradients=gradients)
        return outcome


def measure(model: nn.Module, x: Tensor) -> Pace:
    """Time forward and backward passes at a few batch sizes, within two seconds or some passes over one image.

    Args:
        model: inside `attacked`.
        x: (N, ...) images, at least one.
    """
    forward: dict[int, float] = {}
    gradient: dict[int, float] = {}
    for size in MEASURED:
        # Each size is eight times the last, and takes at most eight times as long.
        if size > len(x) or (gradient and 16 * REPEATED * gradient[size // 8] > MEASURE_SECONDS):
            break
        batch = x[:size]
        _timed(model, batch, False)  # the first pass of a shape pays for caches and compilation
        # The least of a few: another process can only add to it.
        forward[size] = min(_timed(model, batch, False) for _ in range(REPEATED))
        gradient[size] = min(_timed(model, batch, True) for _ in range(REPEATED))
    return Pace(forward, gradient)


def _timed(model: nn.Module, x: Tensor, backward: bool) -> float:
    started = time.perf_counter()
    if backward:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            found = image_gradient(F.log_softmax(model(x), 1)[:, 0], x)
    else:
        with torch.no_grad():
            found = model(x)
    found.sum().item()  # waits for the device
    return time.perf_counter() - started


def _interpolated(times: dict[int, float], k: float) -> float:
    """Linear between the measured batch sizes, in proportion above the largest."""
    largest = max(times)
    if k > largest:
        return times[largest] * k / largest
    return float(np.interp(k, sorted(times), [times[size] for size in sorted(times)]))
