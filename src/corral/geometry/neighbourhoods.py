"""Magnet's batches: a seed cluster drawn by its recent loss, with the nearest clusters of other classes."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Weight of the newest batch in a cluster's running mean loss.
NEWEST = 0.5


@dataclass(frozen=True)
class Neighbourhood:
    """One batch: `rows` (n,) of the data set, `assignments` (n,) in [0, M) the cluster of each, `clusters` (M,) ids.

    `clusters[0]` is the seed; the impostors follow, nearest first. `assignments` index into `clusters`.
    """

    rows: Tensor
    assignments: Tensor
    clusters: Tensor


class NeighbourhoodSampler:
    """Draws the neighbourhoods of the Magnet loss (Rippel et al. 2016; ClusTR, section 3).

    Args:
        centroids: (M_all, d) floats, all clusters.
        classes: (M_all,) integers, the class of each cluster.
        assignments: (N,) integers in [0, M_all), the cluster of each training row.
        clusters_per_batch: M, the seed and its M - 1 nearest clusters of other classes; fewer where there are fewer.
        samples_per_cluster: D, drawn without replacement; a cluster with fewer members gives all it has.

    Raises:
        ValueError: shapes disagree, assignments are outside the clusters, or a number is below 1.
    """

    def __init__(
        self,
        centroids: Tensor,
        classes: Tensor,
        assignments: Tensor,
        *,
        clusters_per_batch: int = 12,
        samples_per_cluster: int = 20,
    ) -> None:
        total = len(centroids)
        if centroids.ndim != 2 or classes.shape != (total,) or assignments.ndim != 1:
            shapes = f"{tuple(centroids.shape)}, {tuple(classes.shape)}, {tuple(assignments.shape)}"
            raise ValueError(f"need centroids (M, d), classes (M,), assignments (N,); found {shapes}")
        if clusters_per_batch < 1 or samples_per_cluster < 1:
            found = f"{clusters_per_batch} and {samples_per_cluster}"
            raise ValueError(f"clusters_per_batch and samples_per_cluster must be at least 1, found {found}")
        if not len(assignments):
            raise ValueError("assignments are empty: there is no row to draw")
        least, most = (int(value) for value in assignments.aminmax())
        if least < 0 or most >= total:
            raise ValueError(f"assignments must be in [0, {total}), found {least} to {most}")
        self.clusters_per_batch, self.samples_per_cluster = clusters_per_batch, samples_per_cluster
        counts = torch.bincount(assignments, minlength=total)
        self.sizes: list[int] = counts.tolist()
        self.starts = [0, *torch.tensor(self.sizes).cumsum(0).tolist()]
        self.members = assignments.argsort(stable=True)
        self.held = counts > 0
        positions = centroids.detach().double()
        distances = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist")
        rivals = (classes.unsqueeze(1) != classes) & self.held
        # Sorted by distance among rivals only: what is no rival comes after all of them, whatever its distance.
        distances = torch.where(rivals, distances, torch.inf)
        neighbours = distances.argsort(dim=1, stable=True)
        self.neighbours: list[list[int]] = [
            row[: min(count, clusters_per_batch - 1)]
            for row, count in zip(neighbours.tolist(), rivals.sum(1).tolist(), strict=True)
        ]

    def draw(self, cluster_losses: Tensor, generator: torch.Generator | None = None) -> Neighbourhood:
        """One neighbourhood; the seed is drawn with probability proportional to its mean recent loss.

        Args:
            cluster_losses: (M_all,) finite, non-negative; all zero means that every seed is equally likely.
            generator: source of all randomness, on any device.

        Returns:
            `Neighbourhood` on the device of the assignments. Empty clusters are never in it.

        Raises:
            ValueError: a loss is not finite or is negative.
        """
        if cluster_losses.shape != self.held.shape:
            raise ValueError(f"cluster_losses must be ({len(self.sizes)},), found {tuple(cluster_losses.shape)}")
        seed = self._seed(cluster_losses.detach(), generator)
        chosen = [seed, *self.neighbours[seed]]
        source = torch.device("cpu") if generator is None else generator.device
        picks, owners = [], []
        for local, cluster in enumerate(chosen):
            picked = torch.randperm(self.sizes[cluster], generator=generator, device=source)
            picks.append(picked[: self.samples_per_cluster] + self.starts[cluster])
            owners += [local] * len(picks[-1])
        device = self.members.device
        rows = self.members[torch.cat(picks).to(device)]
        return Neighbourhood(rows, torch.tensor(owners).to(device), torch.tensor(chosen).to(device))

    def _seed(self, losses: Tensor, generator: torch.Generator | None) -> int:
        """The seed cluster; its number and the check of the losses reach the host in one transfer."""
        source = torch.device("cpu") if generator is None else generator.device
        uniform = torch.rand(1, generator=generator, device=source, dtype=torch.float64).to(self.held.device)
        losses = losses.to(self.held.device, torch.float64)
        sound = losses.isfinite() & (losses >= 0)
        # Relative to the largest, so that no sum of finite losses overflows.
        weights = torch.where(self.held & sound, losses, 0.0)
        weights = weights / weights.max().clamp_min(torch.finfo(torch.float64).tiny)
        weights = torch.where(weights.sum() > 0, weights, self.held.double())
        mass = weights.cumsum(0)
        # Right of equal values, and never past the last cluster with mass: one without mass cannot be drawn.
        last = (weights > 0).nonzero()[-1]
        seed = torch.minimum(torch.searchsorted(mass, uniform * mass[-1], right=True), last)
        number, bad = torch.cat([seed, (~sound).sum().view(1)]).tolist()
        if bad:
            raise ValueError(f"cluster losses must be finite and at least 0: {bad} of {len(losses)} are not")
        return int(number)


class ClusterLosses:
    """The running mean recent loss of every cluster, from which seeds are drawn.

    A cluster's value is an exponential mean over its batches; one not yet seen has the mean of those that were.

    Args:
        num_clusters: M_all.
        device: of the state.
    """

    def __init__(self, num_clusters: int, *, device: torch.device | str | None = None) -> None:
        self.means = torch.zeros(num_clusters, dtype=torch.float64, device=device)
        self.seen = torch.zeros(num_clusters, dtype=torch.bool, device=device)

    @property
    def values(self) -> Tensor:
        """(M_all,) float64 mean recent losses; all zero before the first update."""
        known = (self.means * self.seen).sum() / self.seen.sum().clamp_min(1)
        return torch.where(self.seen, self.means, known)

    def update(self, assignments: Tensor, losses: Tensor) -> None:
        """Count a batch: (n,) integer `assignments` in [0, M_all) of the samples, and their (n,) `losses`."""
        if assignments.shape != losses.shape or losses.ndim != 1:
            found = f"{tuple(assignments.shape)} and {tuple(losses.shape)}"
            raise ValueError(f"assignments and losses must both be (n,), found {found}")
        counts = torch.zeros_like(self.means).index_add_(0, assignments, torch.ones_like(losses, dtype=torch.float64))
        totals = torch.zeros_like(self.means).index_add_(0, assignments, losses.detach().double())
        newest = totals / counts.clamp_min(1)
        mixed = torch.where(self.seen, self.means + NEWEST * (newest - self.means), newest)
        self.means = torch.where(counts > 0, mixed, self.means)
        self.seen = self.seen | (counts > 0)

    def reset(self) -> None:
        """Forget everything, for refitted clusters."""
        self.means = torch.zeros_like(self.means)
        self.seen = torch.zeros_like(self.seen)

    def tensors(self) -> dict[str, Tensor]:
        """The state, to be saved."""
        return {"means": self.means, "seen": self.seen}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        for name, own in self.tensors().items():
            if tensors[name].shape != own.shape:
                raise ValueError(f"{name} must be {tuple(own.shape)}, found {tuple(tensors[name].shape)}")
        self.means, self.seen = tensors["means"].to(self.means), tensors["seen"].to(self.seen)
