"""The engine: attacks in turn over images, batch by batch, each on what the ones before it left standing."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from corral.attacks.attack import Attack
from corral.attacks.budget import BudgetEndedError, Paced
from corral.attacks.outcome import Outcome
from corral.errors import CorralError
from corral.progress import Progress


@dataclass(frozen=True)
class Batch:
    """What one attack did to the images of a batch that it was given.

    Attributes:
        correct: (n,) bool, classified right under the attack.
        step: (n,) int64, `Outcome.step`.
        shown: (m, ...) float32 adversarial versions of those of its images that are kept.
        seconds: what it took.
        forwards: images passed forward.
        backwards: images passed backward.
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
    """What one attack has done so far: images given to it, those of them that it broke, passes, seconds."""

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
        step: (N,) int64, the step of the attack that broke the image; 0 if it is misclassified without attack, -1
            where it stands.
        by: (N,) int64 place of the attack that broke the image, -1 where it stands or is misclassified without attack.
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
        """Of all attacks, also of batches that an earlier call finished."""
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
        """For each attack, how many of the images stand after it."""
        counts = [int((~self.broken).sum() + (self.by > place).sum()) for place in range(len(self.tallies))]
        return tuple(counts)

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
    """Attack images by attacks in turn, each on the images that the ones before left standing.

    With one attack that is the attack on every image. An image's result does not depend on the others of its batch,
    beyond the model's own rounding.

    Args:
        model: as every attack takes it.
        x: (N, ...) images in [0, 1], or a function of (n,) places to them.
        y: (N,) labels.
        attacks: at least one, each bound to its threat.
        seed: of all their random numbers.
        batch_size: images attacked at a time, with a budget at most; None for all at once.
        right: (N,) bool, classified right without attack, where that is known: the others meet no attack.
        keep: (m,) places, in order, of the images whose adversarial versions are kept; None for all.
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
    engine = _Engine(model, images, y, attacks, seed, right, keep, cache, budget)
    total, most, parts, stopped = len(y), batch_size or max(len(y), 1), [], 0
    words = title or f"{attacks[0].name} at eps {attacks[0].threat.eps:.4g}"
    with Progress(words, total, "images", enabled=progress) as bar:
        engine.bar = bar
        for number, rows in enumerate(engine.batches(total, most)):
            try:
                parts.append(engine.batch(number, rows))
            except BudgetEndedError:
                stopped = len(rows)
                break
            bar.advance(len(rows))
    if not parts:
        nothing = torch.arange(0, device=y.device)
        parts.append(_Part(nothing.bool(), nothing, nothing, images(nothing)))
    return Attacked(
        broken=torch.cat([part.broken for part in parts]),
        step=torch.cat([part.step for part in parts]),
        by=torch.cat([part.by for part in parts]),
        x_adv=torch.cat([part.x_adv for part in parts]),
        tallies=engine.tallies,
        stopped=stopped,
    )


@dataclass(frozen=True)
class _Part:
    """The results of one batch; `x_adv` is of its kept images."""

    broken: Tensor
    step: Tensor
    by: Tensor
    x_adv: Tensor


class _Engine:
    """One run's model, images, attacks and what has been counted; see `run_attacks`."""

    def __init__(
        self,
        model: nn.Module,
        images: Callable[[Tensor], Tensor],
        y: Tensor,
        attacks: Sequence[Attack],
        seed: int,
        right: Tensor | None,
        keep: Tensor | None,
        cache: Cache | None,
        budget: Paced | None,
    ) -> None:
        self.model, self.images, self.y, self.seed = model, images, y, seed
        self.right, self.cache, self.budget = right, cache, budget
        self.kept = torch.ones(len(y), dtype=torch.bool, device=y.device)
        if keep is not None:
            self.kept = torch.zeros_like(self.kept).index_fill(0, keep, True)
        self.tallies = tuple(Tally(attack) for attack in attacks)
        self.bar: Progress | None = None

    def batches(self, total: int, most: int) -> Iterator[Tensor]:
        """Places of the images of each batch, until all are done or the budget does not hold another batch."""
        places = torch.arange(total, device=self.y.device)
        if self.budget is None:
            yield from torch.split(places, most) if total else ()
            return
        attacks = [tally.attack for tally in self.tallies]
        some = places if self.right is None else places[self.right]

        def first(count: int) -> tuple[Tensor, Tensor]:
            return self.images(some[:count]), self.y[some[:count]]

        self.budget.begin(attacks, self.model, first, seed=self.seed)
        done = 0
        while done < total and (size := self.budget.size(done, min(most, total - done))):
            yield places[done : done + size]
            done += size

    def batch(self, number: int, rows: Tensor) -> _Part:
        """All attacks on the images `rows`; the tallies change only when all of them are done with it.

        Raises:
            BudgetEndedError: the budget ended before.
        """
        broken = torch.zeros_like(rows, dtype=torch.bool) if self.right is None else ~self.right[rows]
        step, by = torch.where(broken, 0, -1), torch.full_like(rows, -1)
        kept = self.kept[rows]
        found, place_of = self.images(rows[kept]).clone(), kept.cumsum(0) - 1
        results: list[_Result] = []
        for place, tally in enumerate(self.tallies):
            alive = (~broken).nonzero().squeeze(1)
            if not len(alive):
                break
            result = self._attacked(tally.attack, number, rows[alive])
            results.append(result)
            fell = alive[result.broken]
            broken[fell], step[fell] = True, result.step[result.broken]
            by[fell] = torch.where(result.step[result.broken] > 0, place, -1)
            # What stands keeps the point of the first attack, whose objective is the field's common one.
            taken = (result.broken if place else torch.ones_like(result.broken))[kept[alive]]
            found[place_of[alive[kept[alive]][taken]]] = result.x_adv[taken]
        for tally, result in zip(self.tallies, results, strict=False):
            tally.given += len(result.broken)
            tally.broken += result.fell
            tally.forwards += result.forwards
            tally.backwards += result.backwards
            tally.seconds += result.seconds
        return _Part(broken, step, by, found)

    def _attacked(self, attack: Attack, number: int, rows: Tensor) -> "_Result":
        """One attack on the images `rows` of a batch: out of the cache, or run now and cached."""
        held = None if self.cache is None else self.cache.read(attack.name, number)
        if held is not None:
            if len(held.correct) != len(rows):
                raise CorralError(
                    f"batch {number} of {attack.name} was finished with {len(held.correct)} images, expected "
                    f"{len(rows)}; give --overwrite to begin anew"
                )
            broken, step, x_adv = (
                torch.from_numpy(array).to(rows.device) for array in (~held.correct, held.step, held.shown)
            )
            return _Result(broken, step, x_adv, int(broken.sum()), held.seconds, held.forwards, held.backwards)
        result = self._run(attack, rows)
        if self.cache is not None:
            correct, steps, shown = (each.cpu().numpy() for each in (~result.broken, result.step, result.x_adv))
            batch = Batch(correct, steps, shown, result.seconds, result.forwards, result.backwards)
            self.cache.write(attack.name, number, batch)
        return result

    def _run(self, attack: Attack, rows: Tensor) -> "_Result":
        started = time.perf_counter()
        x, y = self.images(rows), self.y[rows]
        if self.budget is None:
            outcome = attack.run(self.model, x, y, seed=self.seed)
        else:
            outcome = self.budget.run(attack, self.model, x, y, seed=self.seed, bar=self.bar)
        fell = int(outcome.broken.sum())  # waits for the device
        seconds, x_adv = time.perf_counter() - started, outcome.x_adv[self.kept[rows]]
        return _Result(outcome.broken, outcome.step, x_adv, fell, seconds, outcome.forwards, outcome.backwards)


@dataclass(frozen=True)
class _Result:
    """What one attack did to the images of a batch that it was given; `x_adv` is of the kept ones, `fell` a count."""

    broken: Tensor
    step: Tensor
    x_adv: Tensor
    fell: int
    seconds: float
    forwards: int
    backwards: int
