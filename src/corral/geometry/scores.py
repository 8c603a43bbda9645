"""Distances from points to centroids, and the class scores of Eq. 4 in log space."""

from typing import Literal

import torch
from torch import Tensor

Rule = Literal["soft", "nearest"] | int

# A class outside the D nearest clusters has probability exactly 0 in Eq. 4. In log space that would be -inf, which
# turns losses and attacks into NaN; exp(-1e4) is 0 in float64 too, so subtracting this gives the same probabilities
# and keeps a gradient.
TRUNCATION_PENALTY = 1e4
# What float32 leaves of ||f||^2 + ||mu||^2 - 2 f·mu near 0 is some 1e-7 of the first two; memberships end above that.
MEMBERSHIP_FLOOR = 1e-6


def squared_distances(points: Tensor, centroids: Tensor) -> Tensor:
    """Squared Euclidean distances from every point to every centroid.

    Args:
        points: (N, d) floats.
        centroids: (M, d) floats.

    Returns:
        (N, M), non-negative up to rounding. Computed from coordinates centred on the centroids' mean, so that a
        common offset costs no precision; gradients flow to both arguments.
    """
    origin = centroids.mean(0).detach()
    points, centroids = points - origin, centroids - origin
    return points.square().sum(1, keepdim=True) - 2 * points @ centroids.T + centroids.square().sum(1)


def cluster_scores(points: Tensor, centroids: Tensor, variance: Tensor | float) -> Tensor:
    """Log-scores of clusters, -||f - mu||^2 / 2 sigma^2 without the term ||f||^2 that all clusters share.

    Dropping the common term makes the scores affine in the point, (mu - o)·(f - o) / sigma^2 - ||mu - o||^2 / 2 sigma^2
    with o the centroids' mean; the differences between clusters, all that any rule uses, are those of Eq. 4.

    Args:
        points: (N, d) floats.
        centroids: (M, d) floats.
        variance: sigma^2 > 0, a number or a scalar tensor.

    Returns:
        (N, M) scores.
    """
    origin = centroids.mean(0).detach()
    offsets = centroids - origin
    return ((points - origin) @ offsets.T - offsets.square().sum(1) / 2) / variance


def membership_scores(points: Tensor, centroids: Tensor) -> Tensor:
    """Log-scores of fuzzy c-means, -log ||f - mu||^2: their softmax is the memberships of fuzzifier m = 2.

    u_k = 1 / sum_j (d_k / d_j)^(2 / (m - 1)) (Bezdek et al. 1984); other fuzzifiers divide the scores by m - 1. Neither
    a variance nor the unit of the features plays a part. A squared distance is raised by `MEMBERSHIP_FLOOR` of the two
    squared lengths that it is a difference of, so that a point on its centroid has a score and a gradient.

    Args:
        points: (N, d) floats.
        centroids: (M, d) floats.

    Returns:
        (N, M) finite scores.
    """
    origin = centroids.mean(0).detach()
    points, centroids = points - origin, centroids - origin
    squares = points.square().sum(1, keepdim=True) + centroids.square().sum(1)
    distances = (squares - 2 * points @ centroids.T).clamp_min(0) + MEMBERSHIP_FLOOR * squares
    return -(distances + torch.finfo(distances.dtype).tiny).log()


def class_index(classes: Tensor, num_classes: int | None = None) -> Tensor:
    """Indices of clusters by class, padded with M (one past the last) where a class has fewer than the most.

    Args:
        classes: (M,) integers, the class of each cluster, in [0, C).
        num_classes: C; by default the largest class plus one.

    Returns:
        (C, K_max) int64 indices into the M clusters.

    Raises:
        ValueError: a class is outside [0, C) or has no cluster.
    """
    classes = classes.detach().cpu().long()
    total = int(classes.max()) + 1 if num_classes is None else num_classes
    if classes.numel() and (int(classes.min()) < 0 or int(classes.max()) >= total):
        raise ValueError(f"cluster classes must be in [0, {total}), found {int(classes.min())} to {int(classes.max())}")
    counts = torch.bincount(classes, minlength=total)
    if not bool((counts > 0).all()):
        raise ValueError(f"every class needs a cluster, class {int((counts == 0).nonzero()[0])} has none")
    index = torch.full((total, int(counts.max())), len(classes), dtype=torch.long)
    for label in range(total):
        index[label, : counts[label]] = (classes == label).nonzero().squeeze(1)
    return index


def gather_by_class(scores: Tensor, index: Tensor) -> Tensor:
    """(N, M) cluster scores as (N, C, K_max) with -inf where `class_index` pads."""
    if index.numel() == scores.shape[1]:
        return scores[:, index]
    padding = scores.new_full((scores.shape[0], 1), -torch.inf)
    return torch.cat([scores, padding], 1)[:, index]


def class_scores(scores: Tensor, index: Tensor, rule: Rule = "soft") -> Tensor:
    """Class log-scores from cluster log-scores: the logits of a cluster classifier (Eq. 4 in log space).

    Args:
        scores: (N, M) cluster log-scores.
        index: (C, K_max) from `class_index`.
        rule: "soft" sums a class's clusters (log-sum-exp), "nearest" takes its best cluster, an integer D keeps only
            the D best clusters of all classes (Eq. 4 with D-nearest normalisation; classes outside get probability 0).

    Returns:
        (N, C) finite logits whose softmax is the class probability.
    """
    grouped = gather_by_class(scores, index)
    if rule == "nearest":
        return grouped.amax(2)
    full = grouped.squeeze(2) if index.shape[1] == 1 else grouped.logsumexp(2)
    if rule == "soft" or rule >= scores.shape[1]:
        return full
    inside = torch.zeros_like(scores).scatter(1, scores.topk(rule, 1).indices, 1.0)
    inside_by_class = gather_by_class(inside, index) > 0
    present = inside_by_class.any(2)
    truncated = grouped.masked_fill(~inside_by_class, -torch.inf)
    truncated = torch.where(present.unsqueeze(2), truncated, torch.zeros_like(truncated)).logsumexp(2)
    return torch.where(present, truncated, full - TRUNCATION_PENALTY)
