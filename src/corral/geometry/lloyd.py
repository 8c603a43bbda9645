"""One k-means problem, all its restarts side by side: seeding, assignment, update. `kmeans` is the public face."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from corral.geometry.seeding import afk_mc2

# Rows scored at once: the block of scores stays in the processor's cache, or within some 256 MB on a GPU.
BLOCK_SCORES = {"cpu": 2**18}
BLOCK_SCORES_ELSEWHERE = 2**26
# Squared distances below this share of the largest squared norm are float32's rounding, not geometry.
ROUNDING = 1e-12
# Below this share of the total sum of squares, sum|x|^2 - sum n|c|^2 has lost too many digits.
CANCELLED = 1e-3
# Gathering and scoring a point costs about this many times what scoring it in place costs (measured, index_select).
GATHER_COST = 2
# Below as many points, finding those to skip costs more than scoring all.
SKIPPING_PAYS = 2000
# Iterations without a lower inertia after which points are only moving between centroids equal up to rounding.
PATIENCE = 3


class Problem:
    """The points of one class, and for each restart still running its assignments, sums, counts and centroids.

    Points become relative to their mean (unit vectors where spherical), in place. The score of a cluster is
    c·x - |c|^2/2, largest for the nearest; for unit centroids it orders like the cosine. `seeds` are the uniform
    numbers of greedy k-means++, a row a restart, or a generator a restart for AFK-MC^2.
    """

    def __init__(self, points: Tensor, k: int, seeds: Tensor | Sequence[torch.Generator], spherical: bool) -> None:
        self.points, self.k, self.spherical = points, k, spherical
        if spherical:
            # In float64, where the square of no float32 under- or overflows.
            norms = torch.linalg.vector_norm(points, dim=1, keepdim=True, dtype=torch.float64)
            points.div_(torch.where(norms > 0, norms, 1.0))
            self.origin = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
        else:
            origin = self._mean(points)
            points.sub_(origin)
            self.origin = origin.double()
        self.norms: Tensor = torch.linalg.vector_norm(points, dim=1)
        self.squares = self.norms.square()
        self.total = self._over_all(self.squares.sum(dtype=torch.float64))
        self.restarts = len(seeds)
        self.everything = self._size()
        self.skips = points.device.type == "cpu" and self.everything >= SKIPPING_PAYS
        self.least, self.stalls = [math.inf] * self.restarts, [0] * self.restarts
        if isinstance(seeds, Tensor):
            self.assignments, self.centroids = self._seed(seeds.to(points.device))
        else:
            self.centroids = torch.stack([self._chain(chain) for chain in seeds])
            self.assignments = self._nearest(points)[0]
        self.margins = points.new_full(self.assignments.shape if self.skips else (self.restarts, 0), -torch.inf)
        self.sums, self.counts = self._sums(self.assignments)
        self.best_inertia = torch.full((), torch.inf, dtype=torch.float64, device=points.device)
        self.best_assignments, self.best_centroids = self.assignments[0], self.centroids[0]

    def _over_all(self, own: Tensor) -> Tensor:
        """The sum over all parts of the points, of which this is one; here the only one."""
        return own

    def _mean(self, points: Tensor) -> Tensor:
        return points.mean(0)

    def _size(self) -> int:
        return len(self.points)

    def _chain(self, generator: torch.Generator) -> Tensor:
        """(k, d) points that AFK-MC^2 finds."""
        return self.points[afk_mc2(self.points, self.k, generator=generator)]

    def _distances(self, centroids: Tensor) -> Tensor:
        """(M, n) squared distances to (M, d) centroids that are few."""
        products = (self.points @ centroids.T).T
        distances: Tensor = (self.squares + centroids.square().sum(1, keepdim=True)).sub_(products, alpha=2)
        return distances.clamp_(min=0)

    def _seed(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Greedy k-means++ (Arthur & Vassilvitskii 2007): assignments (R, n) and centroids (R, k, d)."""
        restarts, count, k = len(uniforms), len(self.points), self.k
        first = (uniforms[:, 0] * count).long().clamp_(max=count - 1)
        chosen = [self.points[first]]
        nearest = self._distances(chosen[0])
        assignments = torch.zeros(restarts, count, dtype=torch.long, device=self.points.device)
        every = torch.arange(restarts, device=self.points.device)
        trials = uniforms[:, 1:].reshape(restarts, k - 1, (uniforms.shape[1] - 1) // max(k - 1, 1))
        for cluster in range(1, k):
            mass = nearest.cumsum(1, dtype=torch.float64)
            # Right of equal values: a point at distance zero has no mass, so it is drawn only if all have none.
            drawn = torch.searchsorted(mass, trials[:, cluster - 1] * mass[:, -1:], right=True).clamp_(max=count - 1)
            candidates = self.points[drawn]
            distances = self._distances(candidates.flatten(0, 1)).view(restarts, -1, count)
            best = torch.minimum(distances, nearest.unsqueeze(1)).sum(2, dtype=torch.float64).argmin(1)
            chosen.append(candidates[every, best])
            closer = distances[every, best]
            assignments.masked_fill_(closer < nearest, cluster)
            nearest = torch.minimum(nearest, closer)
        return assignments, torch.stack(chosen, 1)

    def _selection(self, assignments: Tensor) -> Tensor:
        """(R k, n) matrix of ones where a restart's cluster holds a point."""
        clusters = torch.arange(self.k, device=assignments.device).unsqueeze(1)
        return (assignments.unsqueeze(1) == clusters).to(self.points.dtype).flatten(0, 1)

    def _block_rows(self) -> int:
        scores = BLOCK_SCORES.get(self.points.device.type, BLOCK_SCORES_ELSEWHERE)
        return max(64, scores // (self.restarts * self.k))

    def _sums(self, assignments: Tensor) -> tuple[Tensor, Tensor]:
        """Sums (R, k, d) in float64 and counts (R, k) of all members."""
        shape = (self.restarts * self.k, self.points.shape[1])
        sums = torch.zeros(shape, dtype=torch.float64, device=self.points.device)
        size = self._block_rows()
        for start in range(0, len(self.points), size):
            end = start + size
            sums += self._selection(assignments[:, start:end]) @ self.points[start:end]
        return self._over_all(sums.view(self.restarts, self.k, -1)), self._count(assignments)

    def _count(self, assignments: Tensor) -> Tensor:
        counts = torch.zeros(self.restarts, self.k, dtype=torch.long, device=assignments.device)
        return self._over_all(counts.scatter_add_(1, assignments, torch.ones_like(assignments)))

    def _inertias(self) -> Tensor:
        """(R,) inertias of the assignments that `sums` are of, with the present centroids, in float64."""
        centroids = self.centroids.double()
        own: Tensor = self.counts * centroids.square().sum(2) - 2 * (centroids * self.sums).sum(2)
        inertias: Tensor = own.sum(1) + self.total
        return inertias

    def step(self) -> Tensor:
        """Centroids from the sums, then assignments; returns (R, 2 + k) for the host: inertia, changes, counts."""
        means = (self.sums / self.counts.unsqueeze(2)).to(self.points.dtype)
        held = (self.counts > 0).unsqueeze(2)
        if self.spherical:
            norms = torch.linalg.vector_norm(means, dim=2, keepdim=True)
            held = held & (norms > 0)
            means = means / norms
        before, self.centroids = self.centroids, torch.where(held, means, self.centroids)
        inertias = self._inertias()
        self.previous = self.assignments
        indices = self._uncertain(before)
        if indices is None:
            self.assignments, self.margins = self._nearest(self.points)
        else:
            self.assignments = self.assignments.clone()
            self.assignments[:, indices], self.margins[:, indices] = self._nearest(self.points[indices])
        self.changed = self.previous != self.assignments
        self.counts = self._count(self.assignments)
        changes = self._over_all(self.changed.sum(1, keepdim=True))
        return torch.cat([inertias.unsqueeze(1), changes, self.counts], 1)

    def _nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The cluster of the largest score, (R, m), and by how much it leads the second (empty if unused)."""
        weight = self.centroids.flatten(0, 1)
        bias = weight.square().sum(1) / -2
        found = torch.empty(len(points), self.restarts, dtype=torch.long, device=points.device)
        margins = torch.empty(len(points) if self.skips else 0, self.restarts, dtype=points.dtype, device=points.device)
        size = self._block_rows()
        for start in range(0, len(points), size):
            block = points[start : start + size]
            scores = (block @ weight.T).add_(bias).view(len(block), self.restarts, self.k)
            best = torch.argmax(scores, 2, out=found[start : start + size]).unsqueeze(2)
            if self.skips:
                lead = scores.gather(2, best).squeeze(2)
                torch.sub(lead, scores.scatter_(2, best, -torch.inf).amax(2), out=margins[start : start + size])
        return found.T.contiguous(), margins.T.contiguous()

    def _uncertain(self, before: Tensor) -> Tensor | None:
        """Points that may change cluster now that the centroids moved; None for all (Hamerly 2010, for scores).

        When centroid j moves by D_j, the lead of cluster a over j falls by at most |x| |D_a - D_j| plus the change of
        the two biases. Finding points makes a GPU wait, and gathering many costs more than scoring all.
        """
        if not self.skips:
            return None
        moved = self.centroids - before
        biases = (before.double().square().sum(2) - self.centroids.double().square().sum(2)) / 2
        slope = torch.cdist(moved, moved, compute_mode="donot_use_mm_for_euclid_dist").amax(2)
        rises = biases.unsqueeze(1) - biases.unsqueeze(2)
        rises.diagonal(dim1=1, dim2=2).fill_(torch.finfo(torch.float32).min)
        rise = rises.amax(2).to(self.points.dtype)
        self.margins -= self.norms * slope.gather(1, self.assignments) + rise.gather(1, self.assignments)
        indices = (self.margins <= 0).any(0).nonzero().squeeze(1)
        return indices if GATHER_COST * len(indices) < len(self.points) else None

    def finish_step(self, reports: list[list[float]], last: bool) -> None:
        """Act on what `step` reported: reseed empty clusters, bring the sums up to date, retire what has stopped."""
        changes, reseeded, stopped = 0, False, []
        for restart, (inertia, changed, *counts) in enumerate(reports):
            again = not last and 0 in counts and self._reseed(restart, counts)
            self.stalls[restart] = 0 if inertia < self.least[restart] else self.stalls[restart] + 1
            self.least[restart] = min(inertia, self.least[restart])
            stopped.append(last or (not again and (changed == 0 or self.stalls[restart] >= PATIENCE)))
            changes, reseeded = changes + int(changed), reseeded or again
        if reseeded or GATHER_COST * changes > self.everything or (changes and not self.skips):
            self.sums, self.counts = self._sums(self.assignments)
        elif changes:
            indices = self.changed.any(0).nonzero().squeeze(1)
            signs = self._selection(self.assignments[:, indices]) - self._selection(self.previous[:, indices])
            self.sums += self._over_all((signs @ self.points[indices]).view_as(self.sums))
        if any(stopped):
            self._retire(stopped)

    def _reseed(self, restart: int, counts: list[float]) -> bool:
        """Give each empty cluster the point farthest from its centroid, unless no point is apart from its own.

        Returns whether any point moved. With fewer distinct points than clusters some clusters stay empty.
        """
        held = self.assignments[restart]
        apart = (self.points - self.centroids[restart][held]).square().sum(1)
        least = ROUNDING * self._largest(self.squares)[0]
        moved = False
        for cluster in [number for number, count in enumerate(counts) if count == 0]:
            sole = self._count(self.assignments)[restart][held] <= 1
            distance, farthest = self._largest(apart.masked_fill(sole, 0.0))
            if distance <= least:
                break
            if farthest is not None:
                held[farthest] = cluster
                if self.skips:
                    self.margins[restart, farthest] = -torch.inf
                apart[farthest] = 0.0
            moved = True
        return moved

    def _largest(self, values: Tensor) -> tuple[float, int | None]:
        """The largest of (n,) values of all parts, and where it is; None where it is another part's."""
        place = int(values.argmax())
        return float(values[place]), place

    def _retire(self, stopped: list[bool]) -> None:
        """Compare the restarts that stopped with the best so far, and go on with the others."""
        inertia = self._inertias()
        for restart, done in enumerate(stopped):
            if done:
                better = inertia[restart] < self.best_inertia
                self.best_inertia = torch.where(better, inertia[restart], self.best_inertia)
                self.best_assignments = torch.where(better, self.assignments[restart], self.best_assignments)
                self.best_centroids = torch.where(better, self.centroids[restart], self.best_centroids)
        going = [number for number, done in enumerate(stopped) if not done]
        self.restarts = len(going)
        self.least, self.stalls = [self.least[number] for number in going], [self.stalls[number] for number in going]
        indices = torch.tensor(going, dtype=torch.long, device=self.points.device)
        self.assignments, self.centroids = self.assignments[indices], self.centroids[indices]
        self.sums, self.counts, self.margins = self.sums[indices], self.counts[indices], self.margins[indices]

    def exact_inertia(self) -> Tensor:
        """The best restart's inertia, from the distances themselves where the difference of sums has lost digits."""
        if bool(self.best_inertia > CANCELLED * self.total):
            return self.best_inertia
        apart = self.points - self.best_centroids[self.best_assignments]
        return self._over_all(apart.square().sum(dtype=torch.float64))


def advance(problems: list[Problem], max_iterations: int) -> int:
    """Run all problems to their fixed points, one transfer to the host an iteration; returns the most iterations."""
    running, iteration = list(problems), 0
    while running:
        iteration += 1
        values = iter(torch.cat([problem.step().flatten() for problem in running]).tolist())
        for problem in running:
            reports = [[next(values) for _ in range(2 + problem.k)] for _ in range(problem.restarts)]
            problem.finish_step(reports, iteration == max_iterations)
        running = [problem for problem in running if problem.restarts]
    return iteration
