"""AFK-MC^2 seeding of k-means: k-means++ by Markov chains, without a pass over all points for each centre."""

from collections.abc import Callable

import torch
from torch import Tensor

CHAIN = 200


def afk_mc2(points: Tensor, k: int, *, generator: torch.Generator, chain: int = CHAIN) -> Tensor:
    """(k,) indices of points to start from (Bachem et al. 2016, Algorithm 2, "assumption-free").

    The first is uniform; q = d^2 to it, half and half with the uniform, proposes the steps of the chains. Each further
    centre is where a Metropolis chain of `chain` proposals stands that aims at k-means++'s distribution, probability in
    proportion to the squared distance to the nearest centre so far. Cost O(N d + k^2 d chain), against O(N k d).

    Args:
        points: (N, d) finite floats; unit vectors for spherical k-means.
        k: centres, 1 <= k <= N.
        generator: on the CPU.
        chain: proposals of each chain, at least 1; 1 samples q.

    Returns:
        int64 indices on the points' device; with fewer than k distinct points some points are equal.

    Raises:
        ValueError: an impossible k or chain.
    """
    count = len(points)
    if not 1 <= k <= count:
        raise ValueError(f"k must be from 1 to the number of points, {count}, found {k}")
    if chain < 1:
        raise ValueError(f"chain must be at least 1, found {chain}")
    first = torch.randint(count, (1,), generator=generator).to(points.device)
    apart = (points - points[first]).double().square().sum(1)
    return chains(first, apart, points.__getitem__, k, generator=generator, chain=chain)


def chains(
    first: Tensor,
    apart: Tensor,
    rows: Callable[[Tensor], Tensor],
    k: int,
    *,
    generator: torch.Generator,
    chain: int = CHAIN,
) -> Tensor:
    """The steps of `afk_mc2` after the first centre.

    Args:
        first: (1,) its index.
        apart: (N,) float64 squared distances of all points to it.
        rows: the (n, d) points at (n,) indices.
        k, generator, chain: as `afk_mc2`.
    """
    count = len(apart)
    total = apart.sum()
    proposal = torch.full_like(apart, 1 / count)
    if bool(total > 0):
        proposal = (apart / total + proposal) / 2
    mass = proposal.cumsum(0)
    indices = first
    for _ in range(k - 1):
        drawn = torch.rand(2, chain, generator=generator, dtype=torch.float64)
        steps = torch.searchsorted(mass, drawn[0].to(mass.device) * mass[-1], right=True).clamp_(max=count - 1)
        pairs = torch.cdist(rows(steps), rows(indices), compute_mode="donot_use_mm_for_euclid_dist")
        odds = (pairs.double().square().amin(1) / proposal[steps]).tolist()
        indices = torch.cat([indices, steps[_walk(odds, drawn[1].tolist())].view(1)])
    return indices


def _walk(odds: list[float], drawn: list[float]) -> int:
    """Where a Metropolis chain ends: it steps where the odds' ratio exceeds a uniform number, and always from 0."""
    at = 0
    for step in range(1, len(odds)):
        if odds[step] > drawn[step] * odds[at]:
            at = step
    return at
