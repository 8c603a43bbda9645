"""Square Attack's moves for L1 (Croce & Hein 2021, "Mind the box"): as for L2, then onto the ball within the box."""

import torch
from torch import Tensor

from corral.attacks.square.l2 import L2Search


class L1Search(L2Search):
    """Random search in the L1 balls within the box; arguments and attributes as `L2Search`."""

    order, steepness = 1, 4

    def propose(self, iteration: int) -> None:
        """Turn `best` into the next candidates: as for L2, the first window too long, then projected."""
        if self.grid.channels == 1:
            # Mass only moves: nothing is ever too long, and the projection is a clipping.
            super().propose(iteration)
            return
        self._before = self.best
        self.best = self.best.clone()
        bent, _ = self._move(iteration)
        self.best.scatter_(1, self._first, (self._clean_first.double() + bent).to(self.best.dtype))
        self.best, self._new_mass = project_l1(self.best, self.x, self.radius)

    def settle(self, better: Tensor) -> None:
        """Keep the candidates of the (n,) bool rows `better`, take the others back."""
        if self.grid.channels == 1:
            super().settle(better)
            return
        self.best = torch.where(better.unsqueeze(1), self.best, self._before)
        self.mass = torch.where(better, self._new_mass, self.mass)

    def _due(self, moved: Tensor) -> Tensor:
        # The published factor: with many channels too long, so that the projection makes weak perturbations zero.
        return super()._due(moved) * self.grid.channels

    def _fitted(self, delta: Tensor) -> Tensor:
        # A start shorter than the ball would leave all that is missing to its first window.
        lengths = self._masses(delta).clamp_min(torch.finfo(torch.float64).tiny)
        longer = delta * (self.radius / lengths).clamp_min(1).unsqueeze(1)
        return project_l1((self.x.double() + longer).to(self.x.dtype), self.x, self.radius)[0]


def project_l1(points: Tensor, x: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """The points of the L1 balls around x within the box nearest in L2 (Croce & Hein 2021, Prop. 2.1).

    A pixel's perturbation a becomes min(max(|a| - t, 0), room), room being its way to the box's side and t >= 0 the
    least threshold that makes the image's perturbation short enough. Only pixels that differ from x are computed, in
    float64 and independently of the batch: a random search would turn a last digit into another path.

    Returns (n, d) points for points and centres (n, d) and a radius of at least 0, and their (n,) float64 distances.
    """
    rows, columns = (points != x).nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(x))
    slots = torch.arange(len(rows), device=x.device) - (counts.cumsum(0) - counts)[rows]
    packed = torch.zeros(2, len(x), max(int(counts.max()), 1), dtype=torch.float64, device=x.device)
    packed[0, rows, slots] = points[rows, columns].double()
    packed[1, rows, slots] = x[rows, columns].double()
    delta, centres = packed[0] - packed[1], packed[1]
    sizes, rooms = delta.abs(), torch.where(delta > 0, 1 - centres, centres)
    kept = torch.minimum((sizes - _thresholds(sizes, rooms, radius)).clamp_min_(0), rooms)
    near = (centres + kept * delta.sign()).clamp_(0, 1).to(x.dtype)
    distances = (near.double() - centres).abs().sum(1)
    found = x.clone()
    found[rows, columns] = near[rows, slots]
    return found, distances


def _thresholds(sizes: Tensor, rooms: Tensor, radius: float) -> Tensor:
    """(n, 1) least t >= 0 with sums of min(max(sizes - t, 0), rooms) at most the radius.

    The sum is flat where a pixel is at its wall or gone, and falls with slope 1 per pixel in between: its values at the
    sorted ends of these stretches bracket the root, which is then exact.
    """
    ends = torch.cat([(sizes - rooms).clamp_min(0), sizes], 1)
    ends, order = ends.sort(1)
    falling = torch.where(order < sizes.shape[1], 1, -1).cumsum(1)
    drops = (ends.diff(dim=1) * falling[:, :-1]).cumsum(1)
    total = torch.minimum(sizes, rooms).sum(1, keepdim=True)
    sums = torch.cat([total, total - drops], 1)
    last = (sums > radius).sum(1, keepdim=True) - 1
    at = last.clamp_min(0)
    exact = ends.gather(1, at) + (sums.gather(1, at) - radius) / falling.gather(1, at).clamp_min(1)
    return torch.where(last >= 0, exact, torch.zeros_like(exact))
