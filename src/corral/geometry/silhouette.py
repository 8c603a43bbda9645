"""Silhouette widths by the cosine distance, exact at any size, and the number of clusters that they choose."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corral.distributed import ranks
from corral.geometry.kmeans import Seeding, cluster_sizes, kmeans

# Mean distances below it are rounding of sums of float64 products, not geometry: such a point is between its clusters.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Choice:
    """Which number of clusters has the largest mean silhouette width: `k`, and the width of each candidate."""

    k: int
    widths: dict[int, float]


def cosine_silhouette(points: Tensor, assignments: Tensor, *, shared: bool = False) -> Tensor:
    """(N,) silhouette widths (Rousseeuw 1987) by the distance 1 - cos.

    (b - a) / max(a, b), a the mean distance to the other members of the own cluster, b the least mean distance to the
    members of another; 0 where a point is alone in its cluster. The mean of 1 - x·y over the members y of a cluster is
    1 - x·(their mean), so that all of them cost O(N k d): exact where pairs would be too many.

    Args:
        points: (N, d) finite floats, not zero; only their directions count.
        assignments: (N,) int64 clusters >= 0; at least two of them have members.
        shared: points and assignments are this process's block of those of several.

    Returns:
        float64 in [-1, 1].

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, a zero vector, or fewer than two clusters.
    """
    if points.dim() != 2 or assignments.shape != points.shape[:1]:
        raise ValueError(
            f"points (N, d) and assignments (N,) must fit, found {tuple(points.shape)} and {tuple(assignments.shape)}"
        )
    if not bool(torch.isfinite(points).all()):
        raise ValueError(f"points must be finite, found NaN or infinity in {_not_finite(points)} of {len(points)}")
    lengths = points.double().norm(dim=1, keepdim=True)
    if bool((lengths == 0).any()):
        raise ValueError("a zero vector has no direction: leave such points out")
    units = points.double() / lengths
    present = torch.unique(assignments)
    if shared:
        present = torch.unique(torch.cat(ranks.gathered(present)))
    if len(present) < 2:
        raise ValueError("silhouette widths need at least two clusters with members")
    own = torch.searchsorted(present, assignments)
    counts = torch.bincount(own, minlength=len(present)).double()
    sums = torch.zeros(len(present), units.shape[1], dtype=units.dtype, device=units.device).index_add_(0, own, units)
    if shared:
        counts, sums = ranks.summed(counts), ranks.summed(sums)
    products = units @ sums.T
    size = counts[own]
    # The sum over the own cluster has the point itself, at distance 0, which the mean over the others has not.
    inside = (size - products.gather(1, own.unsqueeze(1)).squeeze(1)) / (size - 1).clamp_min(1)
    outside = (1 - products / counts).scatter(1, own.unsqueeze(1), torch.inf).amin(1)
    largest = torch.maximum(inside, outside)
    widths = torch.where(largest > ROUNDING, (outside - inside) / largest, torch.zeros_like(largest))
    return torch.where(size > 1, widths, torch.zeros_like(widths)).clamp(-1, 1)


def mean_width(points: Tensor, assignments: Tensor, *, shared: bool = False) -> float:
    """The mean silhouette width; arguments as `cosine_silhouette`.

    Args:
        points: (N, d) finite floats, not zero.
        assignments: (N,) int64 cluster of each point.
        shared: each of several processes has a part of the points, and all get the mean over all.
    """
    widths = cosine_silhouette(points, assignments, shared=shared)
    if not shared or ranks.size() == 1:
        return float(widths.mean())
    return float(ranks.summed(widths.sum())) / sum(ranks.everyones(len(points)))


def _not_finite(points: Tensor) -> int:
    return int((~torch.isfinite(points)).any(1).sum())


def choose_clusters(
    points: Tensor,
    candidates: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    seeding: Seeding = "afk-mc2",
    restarts: int = 1,
    shared: bool = False,
) -> Choice:
    """The number of spherical clusters of the largest mean silhouette width, the smaller of two equal ones.

    Candidates that leave a cluster without members are left out.

    Args:
        points: (N, d) finite floats, not zero.
        candidates: numbers of clusters from 2 to N - 1.
        generator: of k-means.
        seeding: of k-means.
        restarts: of k-means.
        shared: the points are this process's block of those of several, as `kmeans` takes it.

    Raises:
        ValueError: no candidates, impossible ones, or fewer directions than any candidate has clusters.
    """
    total = sum(ranks.everyones(len(points))) if shared else len(points)
    if not candidates or min(candidates) < 2 or max(candidates) >= total:
        raise ValueError(
            f"candidates must be numbers of clusters from 2 to {total - 1} (one less than the points), found "
            f"{', '.join(map(str, candidates)) or 'none'}"
        )
    widths = {}
    for k in sorted(set(candidates)):
        found = kmeans(
            points, k, spherical=True, seeding=seeding, restarts=restarts, generator=generator, shared=shared
        )
        # Of fewer directions than clusters some clusters are empty: there are not k of them.
        if bool(cluster_sizes(found.assignments, k, shared=shared).all()):
            widths[k] = mean_width(points, found.assignments, shared=shared)
    if not widths:
        raise ValueError(f"the points have fewer directions than {min(candidates)} clusters: ask for fewer clusters")
    return Choice(max(widths, key=lambda k: widths[k]), widths)
