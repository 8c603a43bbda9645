"""k-means of points that lie in several processes, a block in each: sums and counts are exchanged, no points."""

from typing import Any

import torch
from torch import Tensor

from corral.distributed import ranks
from corral.geometry.lloyd import Problem
from corral.geometry.seeding import chains


class SharedProblem(Problem):
    """One of the blocks of a problem's points; every process has the same restarts, sums, counts and centroids.

    Of the points themselves only those travel that a seeding looks at: k-means++'s candidates, or the proposals of
    AFK-MC^2; and of each point's distance to the first centre one number.
    """

    def __init__(self, points: Tensor, k: int, seeds: Any, spherical: bool) -> None:
        self.sizes = ranks.everyones(len(points))
        self.start = sum(self.sizes[: ranks.rank()])
        super().__init__(points, k, seeds, spherical)

    def _over_all(self, own: Tensor) -> Tensor:
        return ranks.summed(own)

    def _size(self) -> int:
        return sum(self.sizes)

    def _mean(self, points: Tensor) -> Tensor:
        mean = ranks.summed(points.sum(0, dtype=torch.float64)) / sum(self.sizes)
        return mean.to(points.dtype)

    def _rows(self, indices: Tensor) -> Tensor:
        """The (n, d) points at (n,) indices among all."""
        return ranks.rows(self.points, indices, self.start)

    def _chain(self, generator: torch.Generator) -> Tensor:
        first = torch.randint(self.everything, (1,), generator=generator).to(self.points.device)
        apart = (self.points - self._rows(first)).double().square().sum(1)
        every = torch.cat(ranks.gathered(apart))
        return self._rows(chains(first, every, self._rows, self.k, generator=generator))

    def _seed(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        restarts, k = len(uniforms), self.k
        first = (uniforms[:, 0] * self.everything).long().clamp_(max=self.everything - 1)
        chosen = [self._rows(first)]
        nearest = self._distances(chosen[0])
        assignments = torch.zeros(restarts, len(self.points), dtype=torch.long, device=self.points.device)
        every = torch.arange(restarts, device=self.points.device)
        trials = uniforms[:, 1:].reshape(restarts, k - 1, (uniforms.shape[1] - 1) // max(k - 1, 1))
        for cluster in range(1, k):
            candidates = self._rows(self._drawn(nearest, trials[:, cluster - 1]).flatten())
            distances = self._distances(candidates).view(restarts, -1, len(self.points))
            potentials = torch.minimum(distances, nearest.unsqueeze(1)).sum(2, dtype=torch.float64)
            best = self._over_all(potentials).argmin(1)
            chosen.append(candidates.view(restarts, -1, candidates.shape[1])[every, best])
            closer = distances[every, best]
            assignments.masked_fill_(closer < nearest, cluster)
            nearest = torch.minimum(nearest, closer)
        return assignments, torch.stack(chosen, 1)

    def _drawn(self, nearest: Tensor, uniforms: Tensor) -> Tensor:
        """(R, t) indices among all points, in proportion to (R, n) squared distances, by (R, t) uniform numbers."""
        mass = nearest.cumsum(1, dtype=torch.float64)
        totals = torch.stack(ranks.gathered(mass[:, -1]))
        ends = totals.cumsum(0)
        wanted = uniforms * ends[-1].unsqueeze(1)
        # Right of equal values, as `Problem` has it: the block, then the point in it.
        block = torch.searchsorted(ends.T.contiguous(), wanted, right=True).clamp_(max=len(self.sizes) - 1)
        within = wanted - (ends - totals).T.gather(1, block)
        place = torch.searchsorted(mass, within, right=True).clamp_(max=len(self.points) - 1) + self.start
        return ranks.summed(torch.where(block == ranks.rank(), place, torch.zeros_like(place)))

    def _largest(self, values: Tensor) -> tuple[float, int | None]:
        largest, place = super()._largest(values)
        all_largest = ranks.everyones(largest)
        owner = max(range(len(all_largest)), key=lambda number: (all_largest[number], -number))
        return all_largest[owner], place if owner == ranks.rank() else None
