"""Magnet with the arithmetic of the released ClusTR code, only for reproducing it."""

import torch
from torch import Tensor
from torch.nn import functional

from corral.geometry.scores import squared_distances
from corral.losses.clustering import batch_centroids, batch_variance
from corral.precision import full_precision

# The released code's guard against log 0 and division by 0.
GUARD = 1e-8


@full_precision
def magnet_published(
    features: Tensor,
    assigned: Tensor,
    centroids: Tensor,
    classes: Tensor,
    *,
    alpha: float,
    variance: Tensor | float | None = None,
) -> Tensor:
    """{-log(n / (m + 1e-8) + 1e-8)}_+ with n = exp(-d_own^2 / 2 sigma^2 - alpha), m = sum_rivals exp(-d^2 / 2 sigma^2).

    The released code's form of Magnet (Eq. 3). It saturates at -log 1e-8 = 18.42, with gradient 0 once n underflows:
    the worst examples teach nothing. `magnet` is the loss that the paper states.

    Args:
        features: (N, d).
        assigned: (N,) index of each example's centroid.
        centroids: (M, d).
        classes: (M,) integers, the class of each centroid.
        alpha: margin, in units of d^2 / 2 sigma^2.
        variance: sigma^2 > 0; None takes the batch's own, with gradient.

    Returns:
        (N,) losses in [0, 18.43).

    Raises:
        ValueError: variance is None and there are fewer than two examples.
    """
    if variance is None:
        variance = batch_variance(features, assigned, centroids)
    scaled = squared_distances(features, centroids).clamp(min=0) / (2 * variance)
    numerator = (-scaled.gather(1, assigned.unsqueeze(1)).squeeze(1) - alpha).exp()
    own = classes[assigned].unsqueeze(1) == classes
    denominator = (-scaled).masked_fill(own, -torch.inf).exp().sum(1)
    return functional.relu(-(numerator / (denominator + GUARD) + GUARD).log())


@full_precision
def magnet_batch_published(features: Tensor, assigned: Tensor, classes: Tensor, *, alpha: float) -> Tensor:
    """`magnet_published` on the batch's own centroids and variance, with gradients through both.

    Args:
        features: (N, d) of a batch of M clusters.
        assigned: (N,) cluster of each example, in [0, M), every cluster at least once.
        classes: (M,) integers, the class of each cluster.
        alpha: margin.

    Returns:
        (N,) losses in [0, 18.43).

    Raises:
        ValueError: a cluster has no example, or there are fewer than two examples.
    """
    centroids = batch_centroids(features, assigned, len(classes))
    return magnet_published(features, assigned, centroids, classes, alpha=alpha)
