"""Magnet with the arithmetic of the released ClusTR code, only for reproducing it."""

import torch
from torch import Tensor
from torch.nn import functional

from corral.losses.clustering import batch_centroids, clustering_loss
from corral.precision import full_precision

# The released code's guard against log 0 and division by 0.
GUARD = 1e-8


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

    The released code's form of Magnet (Eq. 3). It saturates at -log 1e-8 = 18.42, with gradient 0 once n underflows, so
    that the farthest examples have none. `magnet` is the loss that the paper states, with the same arguments.

    Args:
        features: (N, d).
        assigned: (N,) index of each example's centroid; its class is the example's.
        centroids: (M, d).
        classes: (M,) integers, the class of each centroid.
        alpha: margin, in units of d^2 / 2 sigma^2.
        variance: sigma^2 > 0; None takes the batch's own, with gradient.

    Returns:
        (N,) losses in [0, 18.43).

    Raises:
        ValueError: variance is None and there are fewer than two examples.
    """

    def combine(pull: Tensor, push: Tensor) -> Tensor:
        return functional.relu(-((-pull - alpha).exp() / (push + GUARD) + GUARD).log())

    return clustering_loss(
        features, assigned, centroids, classes, push=_summed_exponentials, combine=combine, variance=variance
    )


def _summed_exponentials(scaled: Tensor, rivals: Tensor) -> Tensor:
    return (-scaled).masked_fill(~rivals, -torch.inf).exp().sum(1)


@full_precision
def magnet_batch_published(features: Tensor, assigned: Tensor, classes: Tensor, *, alpha: float) -> Tensor:
    """`magnet_published` on the batch's own centroids and variance, as `magnet_batch`, with gradients through both.

    Args:
        features: (N, d), N >= 2.
        assigned: (N,) index of each example's cluster.
        classes: (M,) integers, the class of each cluster.
        alpha: margin, in units of d^2 / 2 sigma^2.
    """
    centroids = batch_centroids(features, assigned, len(classes))
    return magnet_published(features, assigned, centroids, classes, alpha=alpha)
