"""Radii for the soft rule (Eq. 4 over all clusters), whose class scores are log-sum-exps of affine functions."""

import torch
from torch import Tensor

from corral.certify.rounding import below, centred, check_clusters, inner_product_error
from corral.geometry.scores import class_index, gather_by_class

ITERATIONS = 40
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
    classes = classes.to(centres.device)
    radii = [
        _radii(part, centres, classes, index, sigma2) for part in torch.split(points, max(1, CHUNK // len(centres)))
    ]
    found = torch.cat(radii) if radii else points.new_zeros(0)
    return below(found / lipschitz)


def _radii(points: Tensor, centres: Tensor, classes: Tensor, index: Tensor, sigma2: float) -> Tensor:
    dimension = points.shape[1]
    lengths, norms = points.norm(dim=1), centres.norm(dim=1)
    terms = (points @ centres.T - norms.square() / 2) / sigma2
    # Each term is off by at most this; both sides of the comparison lose it.
    slack = inner_product_error(dimension, (lengths[:, None] + norms).square().amax(1)) / sigma2 * 2
    slack = slack + 64 * 2.0**-53 * terms.abs().amax(1)
    scores = gather_by_class(terms, index).logsumexp(2)
    decided = scores.argmax(1)
    own = decided.unsqueeze(1) == classes
    weights = terms.masked_fill(~own, -torch.inf).softmax(1)
    mean = weights @ centres
    squares = norms.square() - 2 * mean @ centres.T + mean.square().sum(1, keepdim=True)
    room = inner_product_error(dimension, (mean.norm(dim=1, keepdim=True) + norms).square()) * 4
    slopes = (squares.clamp_min(0) + room).sqrt() / sigma2
    level = scores.gather(1, decided.unsqueeze(1)).squeeze(1) - slack
    rivals = terms.masked_fill(own, -torch.inf)
    # One term alone reaches the level no sooner than the whole sum: a point at or past the root.
    high = ((level.unsqueeze(1) - rivals) / slopes).amin(1)
    open_, least = _excess(torch.zeros_like(high), rivals, slopes, index, level)
    high = high.clamp_min(0)
    for _ in range(ITERATIONS):
        value, slope = _excess(high, rivals, slopes, index, level)
        step = (value / slope).clamp_min(0)
        high = high - step
        if bool((step <= 1e-14 * high).all()):
            break
    value, _ = _excess(high, rivals, slopes, index, level)
    # Convex: nowhere on the way is the slope below that at 0, so the root is no farther left than this.
    low = high - value.clamp_min(0) / least
    return torch.where(open_ < 0, low.clamp_min(0), torch.zeros_like(low))


def _excess(rho: Tensor, terms: Tensor, slopes: Tensor, index: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) largest rival score that a move of length rho allows, less the own level; and its slope in rho."""
    moved = gather_by_class(terms + slopes * rho.unsqueeze(1), index)
    scores = moved.logsumexp(2)
    top = scores.max(1)
    rows = torch.arange(len(rho), device=rho.device)
    weights = (moved[rows, top.indices] - top.values.unsqueeze(1)).exp()
    steepness = torch.cat([slopes, slopes.new_zeros(len(slopes), 1)], 1)[rows.unsqueeze(1), index[top.indices]]
    return top.values - level, (weights * steepness).sum(1)
