"""One k-means problem, all its restarts side by side: seeding, assignment, update. `kmeans` is the public face."""

import torch
from torch import Tensor

# Rows scored at once: the block of scores stays in the processor's cache, or within some 256 MB on a GPU.
BLOCK_SCORES = {"cpu": 2**18}
BLOCK_SCORES_ELSEWHERE = 2**26
# Squared distances below this share of the largest squared norm are float32's rounding, not geometry.
ROUNDING = 1e-12
# Below this share of the total sum of squares, sum|x|^2 - sum n|c|^2 has lost too many digits.
CANCELLED = 1e-3


class Problem:
    """The points of one class, and for each restart still running its assignments, sums, counts and centroids.

    Points are kept relative to their mean (unit vectors where spherical), in place of what `points` held. The score
    of a cluster is c·x - |c|^2/2, largest for the nearest; for unit centroids it orders like the cosine.
    """

    def __init__(self, points: Tensor, k: int, uniforms: Tensor, spherical: bool) -> None:
        self.points, self.k, self.spherical = points, k, spherical
        if spherical:
            norms = torch.linalg.vector_norm(points, dim=1, keepdim=True)
            points.mul_(torch.where(norms > 0, norms.reciprocal(), 0.0))
            self.origin = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
        else:
            origin = points.mean(0)
            points.sub_(origin)
            self.origin = origin.double()
        self.squares = torch.linalg.vector_norm(points, dim=1).square_()
        self.total = self.squares.sum(dtype=torch.float64)
        self.restarts = len(uniforms)
        self.assignments, self.centroids = self._seed(uniforms)
        self.sums, self.counts = self._sums(self.assignments)
        self.best_inertia = torch.full((), torch.inf, dtype=torch.float64, device=points.device)
        self.best_assignments, self.best_centroids = self.assignments[0], self.centroids[0]

    def _distances(self, centroids: Tensor) -> Tensor:
        """(M, n) squared distances to (M, d) centroids that are few."""
        products = (self.points @ centroids.T).T
        return (self.squares + centroids.square().sum(1, keepdim=True)).sub_(products, alpha=2).clamp_(min=0)

    def _seed(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Greedy k-means++ (Arthur & Vassilvitskii 2007): assignments (R, n) and centroids (R, k, d)."""
        restarts, count, k = len(uniforms), len(self.points), self.k
        first = (uniforms[:, 0] * count).long().clamp_(max=count - 1)
        chosen = [self.points[first]]
        nearest = self._distances(chosen[0])
        assignments = torch.zeros(restarts, count, dtype=torch.long, device=self.points.device)
        every = torch.arange(restarts, device=self.points.device)
        trials = uniforms[:, 1:].reshape(restarts, k - 1, -1)
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
        for rows, held in zip(
            self.points.split(self._block_rows()), assignments.split(self._block_rows(), 1), strict=True
        ):
            sums += self._selection(held) @ rows
        return sums.view(self.restarts, self.k, -1), self._count(assignments)

    def _count(self, assignments: Tensor) -> Tensor:
        counts = torch.zeros(self.restarts, self.k, dtype=torch.long, device=assignments.device)
        return counts.scatter_add_(1, assignments, torch.ones_like(assignments))

    def step(self) -> Tensor:
        """Centroids from the sums, then new assignments; what the host must know, (R, 1 + k): changes and counts."""
        means = (self.sums / self.counts.unsqueeze(2)).to(self.points.dtype)
        held = (self.counts > 0).unsqueeze(2)
        if self.spherical:
            norms = torch.linalg.vector_norm(means, dim=2, keepdim=True)
            held = held & (norms > 0)
            means = means / norms
        self.centroids = torch.where(held, means, self.centroids)
        weight = self.centroids.flatten(0, 1)
        bias = weight.square().sum(1) / -2
        found = torch.empty(len(self.points), self.restarts, dtype=torch.long, device=self.points.device)
        for rows, out in zip(self.points.split(self._block_rows()), found.split(self._block_rows()), strict=True):
            scores = (rows @ weight.T).add_(bias)
            torch.argmax(scores.view(len(rows), self.restarts, self.k), 2, out=out)
        self.previous, self.assignments = self.assignments, found.T.contiguous()
        self.changed = self.previous != self.assignments
        self.counts = self._count(self.assignments)
        return torch.cat([self.changed.sum(1, keepdim=True), self.counts], 1)

    def update(self, changes: list[int], reseeded: bool) -> None:
        """Sums of the new assignments, from the rows that changed where they are few and finding them is free."""
        if reseeded or self.points.device.type != "cpu" or 4 * sum(changes) > len(self.points):
            self.sums, self.counts = self._sums(self.assignments)
            return
        rows = self.changed.any(0).nonzero().squeeze(1)
        signs = self._selection(self.assignments[:, rows]) - self._selection(self.previous[:, rows])
        self.sums += (signs @ self.points[rows]).view_as(self.sums)

    def reseed(self, restart: int, counts: list[int]) -> bool:
        """Give each empty cluster the point farthest from its centroid, unless no point is apart from its own.

        Returns whether any point moved. With fewer distinct points than clusters some clusters stay empty.
        """
        held = self.assignments[restart]
        apart = (self.points - self.centroids[restart][held]).square().sum(1)
        least = ROUNDING * float(self.squares.max())
        moved = False
        for cluster in [number for number, count in enumerate(counts) if count == 0]:
            sole = self._count(self.assignments)[restart][held] <= 1
            farthest = int(apart.masked_fill(sole, 0.0).argmax())
            if float(apart[farthest]) <= least or bool(sole[farthest]):
                break
            held[farthest] = cluster
            apart[farthest] = 0.0
            moved = True
        return moved

    def keep(self, stopped: list[bool]) -> None:
        """Compare the restarts that stopped with the best so far, and go on with the others."""
        sizes = self.counts.double()
        centroids = self.centroids.double()
        inertia = self.total + (sizes * centroids.square().sum(2) - 2 * (centroids * self.sums).sum(2)).sum(1)
        for restart, done in enumerate(stopped):
            if done:
                better = inertia[restart] < self.best_inertia
                self.best_inertia = torch.where(better, inertia[restart], self.best_inertia)
                self.best_assignments = torch.where(better, self.assignments[restart], self.best_assignments)
                self.best_centroids = torch.where(better, self.centroids[restart], self.best_centroids)
        going = torch.tensor([number for number, done in enumerate(stopped) if not done], dtype=torch.long)
        going = going.to(self.points.device)
        self.restarts = len(going)
        self.assignments, self.centroids = self.assignments[going], self.centroids[going]
        self.sums, self.counts = self.sums[going], self.counts[going]

    def exact_inertia(self) -> Tensor:
        """The best restart's inertia, from the distances themselves where the difference of sums has lost digits."""
        if bool(self.best_inertia > CANCELLED * self.total):
            return self.best_inertia
        apart = self.points - self.best_centroids[self.best_assignments]
        return apart.square().sum(dtype=torch.float64)


def advance(problems: list[Problem], max_iterations: int) -> int:
    """Run all problems to their fixed points; returns the iterations of the slowest.

    One transfer to the host an iteration tells which restarts stopped and which clusters are empty.
    """
    running = list(problems)
    for iteration in range(1, max_iterations + 1):
        reports = [problem.step() for problem in running]
        told = iter(torch.cat([report.flatten() for report in reports]).tolist())
        for problem in running:
            rows = [[next(told) for _ in range(1 + problem.k)] for _ in range(problem.restarts)]
            reseeded = [0 in row[1:] and problem.reseed(number, row[1:]) for number, row in enumerate(rows)]
            stopped = [row[0] == 0 and not again for row, again in zip(rows, reseeded, strict=True)]
            if iteration == max_iterations:
                stopped = [True] * len(rows)
            if not all(row[0] == 0 for row in rows) or any(reseeded):
                problem.update([row[0] for row in rows], any(reseeded))
            if any(stopped):
                problem.keep(stopped)
        running = [problem for problem in running if problem.restarts]
        if not running:
            return iteration
    return max_iterations
