"""The engine: attacks in turn over images, batch by batch, each on the images still classified right."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from corral.attacks.attack import Attack
from corral.attacks.budget import BudgetEndedError, Paced
from corral.attacks.outcome import Outcome
from corral.distributed import ranks
from corral.errors import CorralError
from corral.progress import Progress

# Measured on networks of 8×8, 28×28 and 3×32×32 pixels (docs/performance.md): a CPU is no faster with more values at a
# time, but calls cost as much for few small images as for many.
CPU_VALUES, CPU_BATCH, MOST_CPU_BATCH = 125 * 784, 125, 500


def cpu_batch(values: int) -> int:
    """How many images of so many values a CPU attacks at a time."""
    return min(max(CPU_BATCH, CPU_VALUES // values), MOST_CPU_BATCH)


@dataclass(frozen=True)
class Batch:
    """What one attack did to the n images of a batch that it was given.

    Attributes:
        correct: (n,) bool, classified right under the attack.
        step, forwards, backwards: as `Outcome`'s.
        shown: (m, ...) float32 adversarial versions of those of its images that are kept.
        seconds: what it took.
    """

    correct: NDArray[np.bool_]
    step: NDArray[np.int64]
    shown: NDArray[np.float32]
    seconds: float
    forwards: int
    backwards: int


class Cache(Protocol):
    """Finished batches of attacks, by the attack's name and the batch's number."""

    def read(self, key: str, number: int) -> Batch | None:
        """A finished batch, None if it is not finished."""

    def write(self, key: str, number: int, batch: Batch) -> None:
        """Keep a finished batch."""


@dataclass
class Tally:
    """What one attack has done so far: images given to it, its successes, passes, seconds."""

    attack: Attack
    given: int = 0
    broken: int = 0
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Attacked:
    """What attacks in turn did to N images; with a budget that ended, to the first of them.

    Attributes:
        broken: (N,) bool, misclassified by an attack or without one.
        step: (N,) int64, the step of the first successful attack; 0 if the image is misclassified without attack, -1
            if it is robust.
        by: (N,) int64 index of the first successful attack, -1 if the image is robust or misclassified without attack.
        x_adv: (m, ...) of the images that are kept: a misclassified point, else what the first attack gave.
        tallies: one for each attack.
        stopped: images of a batch that the budget cut off; they count nowhere.
    """

    broken: Tensor
    step: Tensor
    by: Tensor
    x_adv: Tensor
    tallies: tuple[Tally, ...]
    stopped: int = 0

    @property
    def correct(self) -> Tensor:
        """(N,) bool, classified right under every attack."""
        return ~self.broken

    @property
    def seconds(self) -> float:
        """Of all attacks, also for batches that an earlier call finished."""
        return sum(tally.seconds for tally in self.tallies)

    @property
    def forwards(self) -> int:
        """Images passed forward by all attacks."""
        return sum(tally.forwards for tally in self.tallies)

    @property
    def backwards(self) -> int:
        """Images passed backward by all attacks."""
        return sum(tally.backwards for tally in self.tallies)

    @property
    def standing(self) -> tuple[int, ...]:
        """For each attack, how many of the images are still classified right after it."""
        return tuple(int((~self.broken).sum() + (self.by > number).sum()) for number in range(len(self.tallies)))

    @property
    def outcome(self) -> Outcome:
        """The result as that of one attack; only where all images are kept."""
        return Outcome(self.x_adv, self.broken, self.step, self.forwards, self.backwards)


def run_attacks(
    model: nn.Module,
    x: Tensor | Callable[[Tensor], Tensor],
    y: Tensor,
    attacks: Sequence[Attack],
    *,
    seed: int = 0,
    batch_size: int | None = None,
    right: Tensor | None = None,
    keep: Tensor | None = None,
    cache: Cache | None = None,
    budget: Paced | None = None,
    title: str | None = None,
    progress: bool = False,
) -> Attacked:
    """Attack images by attacks in turn, each on the images still classified right after those before.

    With one attack that is the attack on every image. An image's result does not depend on the others of its batch,
    beyond the model's own rounding. Without a cache and a budget an attack meets the images that are left of all
    batches, so that few survivors of each do not make many small batches. Several processes take turns at the batches,
    and all have all results; with a budget each attacks all that it is given.

    Args:
        model: as every attack takes it.
        x: (N, ...) images in [0, 1], or a function of (n,) indices to them.
        y: (N,) labels.
        attacks: at least one, each bound to its threat.
        seed: of all their random numbers.
        batch_size: images attacked at a time, with a budget at most; None for all at once.
        right: (N,) bool, classified right without attack, where that is known: the others are not attacked.
        keep: (m,) indices, in order, of the images whose adversarial versions are kept; None for all.
        cache: of finished batches, which are not attacked again.
        budget: it ends the run; the batch that it cuts off counts nowhere. Its batches are as large as it allows.
        title: of the progress line; None for the attack's name and threat.
        progress: show progress on stderr.

    Raises:
        ValueError: no attack, or what an attack refuses.
        CorralError: the model's logits or gradients are not finite, or a cached batch of other images.
    """
    if not attacks:
        raise ValueError("a run needs at least one attack, found none")
    images = x if callable(x) else x.detach().__getitem__
    total, most, stopped = len(y), batch_size or max(len(y), 1), 0
    engine = _Engine(model, images, y, attacks, seed, right, keep, cache, budget, most)
    pooled = len(attacks) > 1 and cache is None and budget is None and ranks.size() == 1
    own: dict[int, tuple[Tensor, ...]] = {}
    words = title or f"{attacks[0].name} at eps {attacks[0].threat.eps:.4g}"
    with Progress(words, total, "images", enabled=progress) as bar:
        engine.bar = bar
        batches = engine.batches(total, max(total, 1) if pooled else most)
        for number, indices in enumerate(batches) if budget is not None else ranks.dealt(batches):
            try:
                with ranks.alone():  # also where an attack is made of others, in turn
                    own[number] = engine.batch(number, indices)
            except BudgetEndedError:
                stopped = len(indices)
                break
            bar.advance(len(indices) * (1 if budget is not None else ranks.size()))
    parts, tallies = list(own.values()), engine.tallies
    if budget is None and ranks.size() > 1:
        shared = ranks.merged({number: tuple(one.cpu() for one in part) for number, part in own.items()})
        parts = [tuple(one.to(y.device) for one in part) for part in shared]
        tallies = _summed(tallies)
    if not parts:
        nothing = torch.arange(0, device=y.device)
        parts.append((nothing.bool(), nothing, nothing, images(nothing)))
    broken, step, by, x_adv = (torch.cat(column) for column in zip(*parts, strict=True))
    return Attacked(broken, step, by, x_adv, tallies, stopped)


def _summed(tallies: Sequence[Tally]) -> tuple[Tally, ...]:
    """What all processes' attacks have done."""
    counts = [(one.given, one.broken, one.forwards, one.backwards, one.seconds) for one in tallies]
    sums = [[sum(column) for column in zip(*rows, strict=True)] for rows in zip(*ranks.everyones(counts), strict=True)]
    return tuple(
        Tally(tally.attack, int(given), int(broken), int(forwards), int(backwards), seconds)
        for tally, (given, broken, forwards, backwards, seconds) in zip(tallies, sums, strict=True)
    )


@dataclass
class _Engine:
    """One run's model, images, attacks and what has been counted; arguments as `run_attacks`."""

    model: nn.Module
    images: Callable[[Tensor], Tensor]
    y: Tensor
    attacks: InitVar[Sequence[Attack]]
    seed: int
    right: Tensor | None
    keep: InitVar[Tensor | None]
    cache: Cache | None
    budget: Paced | None
    most: int
    bar: Progress | None = None
    kept: Tensor = field(init=False)
    tallies: tuple[Tally, ...] = field(init=False)

    def __post_init__(self, attacks: Sequence[Attack], keep: Tensor | None) -> None:
        self.tallies = tuple(Tally(attack) for attack in attacks)
        self.kept = torch.full_like(self.y, keep is None, dtype=torch.bool)
        if keep is not None:
            self.kept[keep] = True

    def batches(self, total: int, most: int) -> Iterator[Tensor]:
        """Indices of the images of each batch, until all are done or the budget does not hold another batch."""
        indices = torch.arange(total, device=self.y.device)
        if self.budget is None:
            yield from torch.split(indices, most) if total else ()
            return
        attacks = [tally.attack for tally in self.tallies]
        some = indices if self.right is None else indices[self.right]

        def first(count: int) -> tuple[Tensor, Tensor]:
            return self.images(some[:count]), self.y[some[:count]]

        self.budget.begin(attacks, self.model, first, seed=self.seed)
        done = 0
        while done < total and (size := self.budget.size(done, min(most, total - done))):
            yield indices[done : done + size]
            done += size

    def batch(self, number: int, indices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All attacks on these images, as `Attacked`'s first four; only when all are done the tallies change.

        Raises:
            BudgetEndedError: the budget ended before.
        """
        broken = torch.zeros_like(indices, dtype=torch.bool) if self.right is None else ~self.right[indices]
        step, by = torch.where(broken, 0, -1), torch.full_like(indices, -1)
        kept = self.kept[indices]
        x_adv, place_of = self.images(indices[kept]).clone(), kept.cumsum(0) - 1
        results: list[tuple[Outcome, float]] = []
        for attack_number, tally in enumerate(self.tallies):
            alive = (~broken).nonzero().squeeze(1)
            if not len(alive):
                break
            results.append(self._attacked(tally.attack, number, indices[alive]))
            found, _ = results[-1]
            hit = alive[found.broken]
            broken[hit], step[hit] = True, found.step[found.broken]
            by[hit] = torch.where(step[hit] > 0, attack_number, -1)
            # A robust image keeps the point of the first attack, whose objective is the field's common one.
            taken = (found.broken if attack_number else torch.ones_like(found.broken))[kept[alive]]
            x_adv[place_of[alive[kept[alive]][taken]]] = found.x_adv[taken]
        for tally, (found, seconds) in zip(self.tallies, results, strict=False):
            tally.given += len(found.broken)
            tally.broken += int(found.broken.sum())
            tally.forwards += found.forwards
            tally.backwards += found.backwards
            tally.seconds += seconds
        return broken, step, by, x_adv

    def _attacked(self, attack: Attack, number: int, indices: Tensor) -> tuple[Outcome, float]:
        """One attack on these images of a batch, with the kept `x_adv` and seconds: from the cache, or run and cached.

        Raises:
            CorralError: the cached batch is of other images.
        """
        held = None if self.cache is None else self.cache.read(attack.name, number)
        if held is None:
            found, seconds = self._run(attack, indices)
            if self.cache is not None:
                correct, step, shown = (one.cpu().numpy() for one in (~found.broken, found.step, found.x_adv))
                batch = Batch(correct, step, shown, seconds, found.forwards, found.backwards)
                self.cache.write(attack.name, number, batch)
            return found, seconds
        if len(held.correct) != len(indices):
            raise CorralError(
                f"batch {number} of {attack.name} was finished with {len(held.correct)} images, expected "
                f"{len(indices)}; give --overwrite to begin anew"
            )
        arrays = (held.shown, ~held.correct, held.step)
        x_adv, broken, steps = (torch.from_numpy(array).to(indices.device) for array in arrays)
        return Outcome(x_adv, broken, steps, held.forwards, held.backwards), held.seconds

    def _run(self, attack: Attack, indices: Tensor) -> tuple[Outcome, float]:
        started = time.perf_counter()
        parts = [self._run_at_once(attack, some) for some in torch.split(indices, self.most)]
        columns = ("x_adv", "broken", "step")
        x_adv, broken, step = (torch.cat([getattr(part, column) for part in parts]) for column in columns)
        forwards, backwards = sum(part.forwards for part in parts), sum(part.backwards for part in parts)
        broken.sum().item()  # waits for the device
        return Outcome(x_adv, broken, step, forwards, backwards), time.perf_counter() - started

    def _run_at_once(self, attack: Attack, indices: Tensor) -> Outcome:
        x, y = self.images(indices), self.y[indices]
        if self.budget is None:
            found = attack.run(self.model, x, y, seed=self.seed)
        else:
            found = self.budget.run(attack, self.model, x, y, seed=self.seed, bar=self.bar)
        return replace(found, x_adv=found.x_adv[self.kept[indices]])
