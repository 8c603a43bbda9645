"""Radii for the soft rule (Eq. 4 over all clusters), whose class scores are log-sum-exps of affine functions."""

import math

import torch
from torch import Tensor

from corral.geometry.radii.rounding import UNIT, below, centred, check_clusters, inner_product_error
from corral.geometry.scores import class_index

# Newton steps at most; convergence is quadratic.
ITERATIONS = 42
# Features × centroids at a time: what a core's cache holds.
CHUNK = 250_000


def soft_radius(
    features: Tensor,
    centroids: Tensor,
    classes: Tensor,
    variance: Tensor | float,
    *,
    lipschitz: float = 1.0,
    slack: float = 0.0,
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
        slack: by how much the own class's score, times sigma^2, must stay above every rival's, where centroids or
            scores are only known so well.

    Returns:
        (N,) float64 l2 radii >= 0, lowered by what rounding could have added.

    Raises:
        ValueError: other shapes, values, variance or constant than these.
    """
    check_clusters(features, centroids, classes)
    sigma2 = float(variance)
    if not 0 < sigma2 < float("inf") or not 0 < lipschitz < float("inf"):
        raise ValueError(f"variance and lipschitz must be positive and finite, found {sigma2} and {lipschitz}")
    if not 0 <= slack < float("inf"):
        raise ValueError(f"slack must be finite and at least 0, found {slack}")
    points, centres = centred(features, centroids)
    index = class_index(classes).to(centres.device)
    # By class, classes of fewer clusters filled up with some that never count; classes last, where sums are fast.
    grouped = torch.cat([centres, centres.new_zeros(1, centres.shape[1])])[index.T]
    rules = _Rules(grouped, len(centres) > index.T, sigma2, slack)
    radii = [rules.radii(part) for part in torch.split(points, max(1, CHUNK // rules.counts.numel()))]
    found = torch.cat(radii) if radii else points.new_zeros(0)
    return below(found / lipschitz)


class _Rules:
    """The soft rule of (K, C, d) centroids of which `counts` (K, C) are real, and what every feature needs of them."""

    def __init__(self, centres: Tensor, counts: Tensor, sigma2: float, slack: float) -> None:
        self.counts, self.sigma2, self.slack = counts, sigma2, slack
        self.clusters, self.classes, self.dimension = centres.shape
        self.flat = centres.flatten(0, 1)
        self.products = self.flat @ self.flat.T
        self.squares = self.flat.square().sum(1)
        self.largest = self.squares.max().sqrt()
        # What a squared distance of two of them, or of their means, is off by.
        room = inner_product_error(self.dimension + self.clusters, (2 * self.largest).square()) * 4
        self.room = room.clamp_min(torch.finfo(room.dtype).tiny)  # also where all centroids are one point

    def radii(self, points: Tensor) -> Tensor:
        """(n,) radii in feature space."""
        clusters, classes = self.clusters, self.classes
        terms = torch.addmm(-self.squares / 2, points, self.flat.T).div_(self.sigma2).view(-1, clusters, classes)
        # Each score is off by at most this; both sides of the comparison lose it.
        slack = inner_product_error(self.dimension, (points.norm(dim=1) + self.largest).square()) / self.sigma2 * 2
        slack = slack + self.slack / self.sigma2 + 64 * UNIT * (terms.abs().amax((1, 2)) + math.log(clusters))
        terms = terms.masked_fill_(~self.counts, -torch.inf)
        top = terms.amax((1, 2))
        shares = (terms - top[:, None, None]).exp_()
        sums, decided = shares.sum(1).max(1)
        level = top + sums.log() - slack
        rows = torch.arange(len(points), device=points.device)
        own = shares[rows, :, decided] / sums[:, None]
        # Squared distances of all centroids to the mean of the own ones: by inner products of centroids alone.
        indices = decided[:, None] + classes * torch.arange(clusters, device=points.device)
        along = (own.unsqueeze(1) @ self.products[indices]).squeeze(1)
        mean = (own * along.gather(1, indices)).sum(1)
        squares = (self.squares - 2 * along).add_(mean[:, None]).clamp_min_(0).add_(self.room)
        squares = squares.view(-1, clusters, classes)
        rivals = terms.scatter_(2, decided[:, None, None].expand(-1, clusters, 1), -torch.inf)
        # A class reaches the level no later than its first term alone, and no sooner than that would reach it with
        # log K more. The root is found only for classes that can be the first.
        gaps = level[:, None, None] - rivals
        latest = _first(gaps, squares).amin(1)
        soonest = _first(gaps - math.log(clusters), squares) if clusters > 1 else _first(gaps, squares)
        point, rival = (soonest <= latest[:, None] * (1 + 1e-12)).nonzero().unbind(1)
        slopes = squares[point, :, rival].sqrt() / self.sigma2
        roots = _root(rivals[point, :, rival], slopes, level[point])
        return torch.full_like(level, torch.inf).scatter_reduce(0, point, roots, "amin")


def _first(gaps: Tensor, squares: Tensor) -> Tensor:
    """(n, C) squares of gap over distance, the least over a class's clusters; only to compare classes, not a bound."""
    return gaps.clamp_min(0).square_().div_(squares).amin(1)


def _root(rivals: Tensor, slopes: Tensor, level: Tensor) -> Tensor:
    """(P,) a rho at or just before the root of `_excess`, 0 where there is none.

    Args:
        rivals: (P, K) terms of a rival class.
        slopes: (P, K) how fast each can grow, > 0.
        level: (P,) the own score.
    """
    start, least = _excess(torch.zeros_like(level), rivals, slopes, level)
    # One term alone reaches the level no sooner than the whole sum: a point at or past the root.
    high = ((level[:, None] - rivals) / slopes).amin(1).clamp_min(0)
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
    """(P,) rival score that a move of length rho allows, less the own level; and its slope in rho."""
    moved = torch.addcmul(terms, slopes, rho[:, None])
    score = moved.logsumexp(1) if moved.shape[1] > 1 else moved.squeeze(1)
    return score - level, ((moved - score.unsqueeze(1)).exp() * slopes).sum(1)
