"""Radii for the soft rule (Eq. 4 over all clusters), whose class scores are log-sum-exps of affine functions."""

import torch
from torch import Tensor

from corral.certify.rounding import UNIT, below, centred, check_clusters, inner_product_error
from corral.geometry.scores import class_index

# Newton steps with all rival classes, and then with those that are left.
FIRST, ITERATIONS = 2, 40
# Rival classes that are asked, where no more than these can be reached first.
CANDIDATES = 8
# Features × centroids held at once.
CHUNK = 4_000_000


def soft_radius(
    features: Tensor, centroids: Tensor, classes: Tensor, variance: Tensor | float, *, lipschitz: float = 1.0
) -> Tensor:
    """(N,) radii within which the class of the largest soft score (ClusTR Eq. 4) stays the same.

    With a = mu / sigma^2, t = a·z - ||mu||^2 / 2 sigma^2 and abar the softmax-weighted mean of the own a's at z, a move
    D changes the own score by at least abar·D (convexity) and a rival's terms by at most abar·D + ||a - abar|| rho for
    ||D|| <= rho. The radius is the largest rho with s_own(z) >= LSE_k(t_rk + ||a_rk - abar|| rho) for every rival class
    r. Its right side less its left is convex and increasing in rho: Newton steps come down to the root from above, and
    a line of the least slope leads from there to a rho that is not past it. With one cluster a class the radius is
    Theorem 1 of ClusTR over all rivals.

    Args:
        features: (N, d) finite.
        centroids: (M, d) finite.
        classes: (M,) integers, every class of 0 ... C - 1, at least two.
        variance: sigma^2 > 0: the head's `effective_variance`.
        lipschitz: an upper bound on the backbone's l2 Lipschitz constant, > 0.

    Returns:
        (N,) float64 l2 radii >= 0, lowered by what rounding could have added.

    Raises:
        ValueError: other shapes, values, variance or constant than these.
    """
    check_clusters(features, centroids, classes)
    sigma2 = float(variance)
    if not 0 < sigma2 < float("inf") or not 0 < lipschitz < float("inf"):
        raise ValueError(f"variance and lipschitz must be positive and finite, found {sigma2} and {lipschitz}")
    points, centres = centred(features, centroids)
    index = class_index(classes).to(centres.device)
    # By class, classes of fewer clusters filled up with some that never count; classes last, where sums are fast.
    grouped = torch.cat([centres, centres.new_zeros(1, centres.shape[1])])[index.T]
    counts = len(centres) > index.T
    radii = [_radii(part, grouped, counts, sigma2) for part in torch.split(points, max(1, CHUNK // counts.numel()))]
    found = torch.cat(radii) if radii else points.new_zeros(0)
    return below(found / lipschitz)


def _radii(points: Tensor, centres: Tensor, counts: Tensor, sigma2: float) -> Tensor:
    """(n,) radii in feature space, of (K, C, d) centroids of which `counts` (K, C) are real."""
    clusters, classes, dimension = centres.shape
    flat, norms = centres.flatten(0, 1), centres.norm(dim=2)
    terms = ((points @ flat.T).view(-1, clusters, classes) - norms.square() / 2) / sigma2
    # Each term is off by at most this; both sides of the comparison lose it.
    slack = inner_product_error(dimension, (points.norm(dim=1) + norms.max()).square()) / sigma2 * 2
    slack = slack + 64 * UNIT * terms.abs().amax((1, 2))
    terms = terms.masked_fill(~counts, -torch.inf)
    level, decided = _summed(terms).max(1)
    rows = torch.arange(len(points), device=points.device)
    own = terms[rows, :, decided].softmax(1)
    mean = (own.unsqueeze(2) * centres.transpose(0, 1)[decided]).sum(1)
    squares = norms.square() - 2 * (mean @ flat.T).view(-1, clusters, classes) + mean.square().sum(1)[:, None, None]
    room = inner_product_error(dimension, (mean.norm(dim=1) + norms.max()).square()) * 4
    slopes = (squares.clamp_min(0) + room[:, None, None]).sqrt() / sigma2
    level = level - slack
    rivals = terms.scatter(2, decided[:, None, None].expand(-1, clusters, 1), -torch.inf)
    # One term alone reaches the level no sooner than the whole sum: a point at or past the root.
    high = ((level[:, None, None] - rivals) / slopes).amin((1, 2)).clamp_min(0)
    for _ in range(FIRST):
        value, slope = _excess(high, rivals, slopes, level)
        high = high - (value / slope).clamp_min(0)
    # A class that a move of that length does not lift to the level is not the first: few are left to ask.
    lifted = _summed(torch.addcmul(rivals, slopes, high[:, None, None]))
    nearest = lifted.topk(min(CANDIDATES, classes), 1).indices.unsqueeze(1).expand(-1, clusters, -1)
    few = (lifted >= (level - slack).unsqueeze(1)).sum(1) <= CANDIDATES
    found = torch.empty_like(high)
    near = nearest[few]
    found[few] = _root(high[few], rivals[few].gather(2, near), slopes[few].gather(2, near), level[few])
    found[~few] = _root(high[~few], rivals[~few], slopes[~few], level[~few])
    return found


def _summed(terms: Tensor) -> Tensor:
    """(n, C) log-sum-exps over the clusters of (n, K, C) terms."""
    if terms.shape[1] == 1:
        return terms.squeeze(1)
    return terms.logsumexp(1)


def _root(high: Tensor, rivals: Tensor, slopes: Tensor, level: Tensor) -> Tensor:
    """(n,) a rho at or before the root of `_excess`, close to it, given one at or past it; 0 where there is none."""
    start, least = _excess(torch.zeros_like(high), rivals, slopes, level)
    for _ in range(ITERATIONS):
        value, slope = _excess(high, rivals, slopes, level)
        step = (value / slope).clamp_min(0)
        high = high - step
        if bool((step <= 1e-14 * high).all()):
            break
    value, _ = _excess(high, rivals, slopes, level)
    # Convex: nowhere on the way is the slope below that at 0, so the root is no farther left than this.
    low = high - value.clamp_min(0) / least
    return torch.where(start < 0, low.clamp_min(0), torch.zeros_like(low))


def _excess(rho: Tensor, terms: Tensor, slopes: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) largest rival score that a move of length rho allows, less the own level; and its slope in rho."""
    moved = torch.addcmul(terms, slopes, rho[:, None, None])
    top, place = _summed(moved).max(1)
    rows = torch.arange(len(rho), device=rho.device)
    weights = (moved[rows, :, place] - top.unsqueeze(1)).exp()
    return top - level, (weights * slopes[rows, :, place]).sum(1)
