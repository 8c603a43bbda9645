"""How Auto-PGD starts, moves and shortens its steps: Linf and L2 (Croce & Hein 2020), and L1 (Croce & Hein 2021)."""

import torch
from torch import Tensor

from corral.attacks.balls import Norm, ascend, l2_norms, per_example, project, select
from corral.attacks.noise import normal, uniform
from corral.attacks.projections import project_l1

RHO = 0.75
MOMENTUM = 0.75
# The L1 walk: shrinking of the share of pixels that a step changes and of the step, and the step's floor.
SPARSE_SHRINK, SPARSE_STALL, SPARSE_FLOOR = 1.5, 0.95, 10.0


def random_start(x: Tensor, eps: float, norm: Norm, keys: Tensor, draw: Tensor) -> Tensor:
    """A start on the ball's surface, clipped to [0, 1]: the published one, its noise scaled to norm eps."""
    if norm == "Linf":
        noise = uniform(keys, draw, x.shape[1:]) * 2 - 1
        return (x + eps * noise / per_example(noise.flatten(1).abs().amax(1), noise)).clamp(0, 1)
    noise = normal(keys, draw, x.shape[1:])
    if norm == "L2":
        return (x + eps * noise / per_example(l2_norms(noise), noise)).clamp(0, 1)
    return project_l1(x + noise, x, eps)


class Steps:
    """The moves of Linf and L2: steepest ascent with momentum, steps halved where progress stops (Algorithm 1)."""

    def __init__(self, x: Tensor, x_adv: Tensor, eps: float, norm: Norm, steps: int) -> None:
        self.x, self.eps, self.norm = x, eps, norm
        # Ball and box at once: both hold x, so cutting to what they share is cutting to one after the other.
        self.lower, self.upper = ((x - eps).clamp_min(0), (x + eps).clamp_max(1)) if norm == "Linf" else (x, x)
        self.sizes = x.new_full((len(x),), 2 * eps)
        self.before = x_adv
        self.first = True
        self.period = max(int(0.22 * steps), 1)
        self.shortest, self.shorter = max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
        self.halved = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self.best_then = x.new_full((len(x),), -torch.inf)

    def leave(self, stay: Tensor) -> None:
        """Go on with the rows `stay`, (m,) indices in order, alone."""
        self.x, self.lower, self.upper, self.sizes, self.before, self.halved, self.best_then = (
            select(one, stay)
            for one in (self.x, self.lower, self.upper, self.sizes, self.before, self.halved, self.best_then)
        )

    def move(self, x_adv: Tensor, gradient: Tensor) -> Tensor:
        """The next points (Eqs. 3 and 4)."""
        goal = self._projected(ascend(x_adv, gradient, self.sizes, self.norm))
        if not self.first:
            # In place: between the passes of small networks most of the time goes to memory and to calls.
            goal.sub_(x_adv).mul_(MOMENTUM).add_(x_adv).add_((x_adv - self.before).mul_(1 - MOMENTUM))
            goal = self._projected(goal)
        self.before, self.first = x_adv, False
        return goal

    def _projected(self, points: Tensor) -> Tensor:
        if self.norm == "Linf":
            return points.clamp_(self.lower, self.upper)
        return project(points, self.x, self.eps, self.norm)

    def review(self, rises: Tensor, best: Tensor, x_best: Tensor) -> Tensor:
        """At a checkpoint: halve steps by conditions 1 and 2; returns (n,) bool, which rows go back to their best.

        Args:
            rises: (n,) how many of the steps since the last checkpoint raised the objective.
            best: (n,) highest objective so far.
            x_best: (n, ...) where it was met.
        """
        stalled = rises <= self.period * RHO
        halve = stalled | (~self.halved & (self.best_then >= best))
        self.halved, self.best_then = halve, best.clone()
        self.sizes = torch.where(halve, self.sizes / 2, self.sizes)
        self.period = max(self.period - self.shorter, self.shortest)
        return halve


class SparseSteps(Steps):
    """The moves of L1: signs of the largest gradient entries, as many as the best point so far needed."""

    def __init__(self, x: Tensor, x_adv: Tensor, eps: float, norm: Norm, steps: int) -> None:
        super().__init__(x, x_adv, eps, norm, steps)
        self.sizes = x.new_full((len(x),), eps)
        self.period = max(int(0.04 * steps), 1)
        self.pixels = x.shape[1:].numel()
        self.changed = self._changed(x_adv)
        self.share = self.changed / self.pixels / SPARSE_SHRINK

    def _changed(self, points: Tensor) -> Tensor:
        return (points != self.x).flatten(1).sum(1).to(self.x.dtype)

    def leave(self, stay: Tensor) -> None:
        """As `Steps.leave`."""
        super().leave(stay)
        self.share, self.changed = select(self.share, stay), select(self.changed, stay)

    def move(self, x_adv: Tensor, gradient: Tensor) -> Tensor:
        """The next points: no momentum, exact projection onto the L1 ball and the box together."""
        sizes = gradient.flatten(1).abs()
        # Rounded down: the published code rounds up, so that two pixels stay two where one alone is the optimum.
        place = self.pixels - (self.share * self.pixels).long().clamp(1, self.pixels)
        threshold = sizes.sort(1).values.gather(1, place.unsqueeze(1))
        direction = gradient.flatten(1).sign() * (sizes >= threshold)
        length = direction.abs().sum(1, keepdim=True).clamp_min(1e-10)
        step = (direction / length * self.sizes.unsqueeze(1)).view_as(gradient)
        return project_l1(x_adv + step, self.x, self.eps)

    def review(self, rises: Tensor, best: Tensor, x_best: Tensor) -> Tensor:
        """At a checkpoint: fewer pixels and long steps where the best point became sparser, else shorter steps."""
        now = self._changed(x_best)
        sparser = now < SPARSE_STALL * self.changed
        self.share, self.changed = now / self.pixels / SPARSE_SHRINK, now
        shorter = (self.sizes / SPARSE_SHRINK).clamp_min(self.eps / SPARSE_FLOOR)
        self.sizes = torch.where(sparser, torch.full_like(self.sizes, self.eps), shorter)
        return sparser
