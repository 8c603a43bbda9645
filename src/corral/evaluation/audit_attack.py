"""AutoAttack standard on as many whole images as a budget holds: chunks go through every attack, or do not count."""

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from corral.attacks.attack import Attack
from corral.attacks.outcome import Outcome
from corral.evaluation.audit_budget import Budget, BudgetEndedError, Pace
from corral.evaluation.audit_record import AuditAttack
from corral.progress import Progress, duration

# A chunk may take at most this share of what is left if none of its images falls, the first one and later ones:
# estimates err, before a whole chunk was timed all the more, and a chunk that the deadline cuts off is lost.
FIRST_SHARE, SHARE = 0.5, 0.8
# The first attack's own cost is timed on this many images before any chunk is chosen, in this share of what is left.
PROBED, PROBE_SHARE = 8, 0.05


class Tally:
    """What the attacks have done so far.

    Attributes:
        done: images that have been through the whole ensemble.
        robust: how many of them nothing broke.
        right: how many of them are classified right without attack.
        stopped: images of a chunk that the deadline cut off; they count nowhere.
    """

    def __init__(self, attacks: Sequence[Attack]) -> None:
        self.attacks = attacks
        self.done = self.robust = self.right = self.stopped = 0
        self.given, self.broken = [0] * len(attacks), [0] * len(attacks)
        self.forwards, self.backwards = [0] * len(attacks), [0] * len(attacks)
        self.seconds = [0.0] * len(attacks)

    def rows(self) -> list[AuditAttack]:
        """The record's row of each attack, in the order that they ran; none where no image was done."""
        rows, standing = [], self.right
        for i, attack in enumerate(self.attacks if self.done else ()):
            standing -= self.broken[i]
            rows.append(
                AuditAttack(
                    name=attack.name,
                    description=attack.description,
                    given=self.given[i],
                    broken=self.broken[i],
                    accuracy=standing / self.done,
                    forwards=self.forwards[i],
                    backwards=self.backwards[i],
                    seconds=self.seconds[i],
                )
            )
        return rows


def run_attacks(
    model: nn.Module,
    attacks: Sequence[Attack],
    images: Callable[[Tensor], Tensor],
    labels: Tensor,
    right: Tensor,
    *,
    seed: int,
    budget: Budget,
    pace: Pace,
    batch_size: int,
    progress: bool,
) -> Tally:
    """Attack images in their order, chunk by chunk, until all are done or the budget does not hold another one.

    Args:
        model: inside `measuring`.
        attacks: the ensemble, in order; each gets what the ones before it left standing.
        images: rows to (k, ...) images in [0, 1].
        labels: (N,) labels.
        right: (N,) bool, classified right without attack; the others are counted as broken without a pass.
        budget: it ends; the chunk it cuts off counts nowhere.
        pace: how long passes take; it learns.
        batch_size: the largest chunk.
        progress: show it.
    """
    tally, total = Tally(attacks), len(labels)
    pace.expect(attacks)
    with Progress("AutoAttack standard", total, "images", enabled=progress) as bar:
        attack = _Chunks(model, images, labels, right, seed, budget, pace, bar)
        attack.probe(attacks[0])
        while tally.done < total:
            share = (SHARE if tally.done else FIRST_SHARE) * budget.left
            # What is left may hold one image even where a share of it does not.
            size = pace.fitting(share, min(batch_size, total - tally.done)) or pace.fitting(budget.left, 1)
            if size == 0:
                break
            try:
                attack.chunk(tally, size)
            except BudgetEndedError:
                tally.stopped = size
                break
    return tally


class _Chunks:
    """Chunks of the images under attack, timed."""

    def __init__(
        self,
        model: nn.Module,
        images: Callable[[Tensor], Tensor],
        labels: Tensor,
        right: Tensor,
        seed: int,
        budget: Budget,
        pace: Pace,
        bar: Progress,
    ) -> None:
        self.model, self.images, self.labels, self.right = model, images, labels, right
        self.seed, self.budget, self.pace, self.bar = seed, budget, pace, bar

    def probe(self, attack: Attack) -> None:
        """Time an attack on a few images, for the pace alone."""
        rows = self.right.nonzero().squeeze(1)[:PROBED]
        if len(rows):
            with contextlib.suppress(BudgetEndedError):
                self._run(attack, rows, self.budget.clock() + PROBE_SHARE * self.budget.left)

    def chunk(self, tally: Tally, size: int) -> None:
        """The next `size` images through every attack; the tally changes only when all of them are done with it.

        Raises:
            BudgetEndedError: the deadline passed before.
        """
        rows = torch.arange(tally.done, tally.done + size, device=self.labels.device)
        alive = rows[self.right[rows]]
        found = []
        for attack in tally.attacks:
            given, before = len(alive), self.budget.spent
            forwards = backwards = 0
            if given:
                outcome = self._run(attack, alive, self.budget.end)
                alive = alive[~outcome.broken]
                forwards, backwards = outcome.forwards, outcome.backwards
            found.append((given, given - len(alive), forwards, backwards, self.budget.spent - before))
        for i, (given, broken, forwards, backwards, seconds) in enumerate(found):
            tally.given[i] += given
            tally.broken[i] += broken
            tally.forwards[i] += forwards
            tally.backwards[i] += backwards
            tally.seconds[i] += seconds
        tally.done += size
        tally.right += int(self.right[rows].sum())
        tally.robust += len(alive)
        self.bar.advance(size)

    def _run(self, attack: Attack, rows: Tensor, deadline: float) -> Outcome:
        passes, start = 0, self.budget.spent

        def tick() -> None:
            nonlocal passes
            passes += 1
            self.bar.advance(0, f"{attack.name}, {duration(max(0.0, self.budget.left))} of the budget left")

        images = 0
        try:
            with self.budget.enforced(self.model, deadline, tick):
                outcome = attack.run(self.model, self.images(rows), self.labels[rows], seed=self.seed)
            images, gradients = outcome.forwards, outcome.backwards > 0
        except BudgetEndedError:
            # Cut off with all images standing, as far as is known.
            images, gradients = passes * len(rows), True
            raise
        finally:
            if images:
                self.pace.observe(passes, images, self.budget.spent - start, gradients=gradients)
        return outcome
