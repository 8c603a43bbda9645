"""Clustering losses: the family of Eq. 2 (ClusTR), Magnet as a preset of it, and centroids of a batch.

All is in log space, so that no example is too far from its rivals to have a gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from corral.geometry.scores import squared_distances
from corral.precision import full_precision

Pull = Callable[[Tensor, Tensor, Tensor], Tensor]
Push = Callable[[Tensor, Tensor], Tensor]
Combine = Callable[[Tensor, Tensor], Tensor]


def pull_assigned(scaled: Tensor, assigned: Tensor, own: Tensor) -> Tensor:
    """F of Eq. 2 as in Magnet: the scaled distance to the assigned centroid.

    Args:
        scaled: (N, M) distances d^2 / 2 sigma^2.
        assigned: (N,) index of each example's centroid.
        own: (N, M) True where a centroid is of the example's class.

    Returns:
        (N,) pulls.
    """
    return scaled.gather(1, assigned.unsqueeze(1)).squeeze(1)


def pull_nearest(scaled: Tensor, assigned: Tensor, own: Tensor) -> Tensor:
    """F of Eq. 2 with the nearest centroid of the example's class; arguments as `pull_assigned`.

    Args:
        scaled: (N, M) distances d^2 / 2 sigma^2.
        assigned: (N,) index of each example's centroid; not used.
        own: (N, M) True where a centroid is of the example's class.
    """
    return scaled.masked_fill(~own, torch.inf).amin(1)


def push_soft(scaled: Tensor, rivals: Tensor) -> Tensor:
    """G of Eq. 2 as in Magnet: log of the summed exp(-d^2 / 2 sigma^2) of the rival clusters.

    Args:
        scaled: (N, M) distances d^2 / 2 sigma^2.
        rivals: (N, M) True where a centroid is of another class.

    Returns:
        (N,) pushes; -inf, with gradient 0, where there is no rival.
    """
    present = rivals.any(1)
    # A row without rivals sums over zeros instead of -inf, which would make its gradient NaN.
    hidden = ~rivals & present.unsqueeze(1)
    return (-scaled).masked_fill(hidden, -torch.inf).logsumexp(1).masked_fill(~present, -torch.inf)


def push_nearest(scaled: Tensor, rivals: Tensor) -> Tensor:
    """G of Eq. 2 with the nearest rival alone, -min d^2 / 2 sigma^2; arguments and result as `push_soft`.

    Args:
        scaled: (N, M) distances d^2 / 2 sigma^2.
        rivals: (N, M) True where a centroid is of another class.
    """
    return (-scaled).masked_fill(~rivals, -torch.inf).amax(1)


def hinge(alpha: float) -> Combine:
    """H of Eq. 2 as in Magnet: {alpha + pull + push}_+, 0 without rivals; alpha in units of d^2 / 2 sigma^2."""
    return lambda pull, push: functional.relu(alpha + pull + push)


def batch_variance(features: Tensor, assigned: Tensor, centroids: Tensor) -> Tensor:
    """Scalar sigma^2 of a batch, sum of squared distances to the assigned centroids / (N - 1), with gradient to both.

    At least the square root of the dtype's smallest normal number, so that a collapsed batch divides without overflow.

    Args:
        features: (N, d), N >= 2.
        assigned: (N,) indices into the centroids.
        centroids: (M, d).

    Raises:
        ValueError: fewer than two examples.
    """
    if len(features) < 2:
        raise ValueError(f"a batch's own variance needs at least 2 examples, found {len(features)}: pass variance")
    variance = (features - centroids[assigned]).square().sum() / (len(features) - 1)
    return variance.clamp(min=torch.finfo(variance.dtype).tiny ** 0.5)


@full_precision
def clustering_loss(
    features: Tensor,
    assigned: Tensor,
    centroids: Tensor,
    classes: Tensor,
    *,
    combine: Combine,
    pull: Pull = pull_assigned,
    push: Push = push_soft,
    variance: Tensor | float | None = None,
) -> Tensor:
    """The general clustering loss H(F(f_i, own centroids), G(f_i, other centroids)) of ClusTR's Eq. 2.

    Args:
        features: (N, d).
        assigned: (N,) index of each example's centroid; its class is the example's.
        centroids: (M, d).
        classes: (M,) integers, the class of each centroid.
        combine: H, of the pulls (N,) and pushes (N,).
        pull: F, of scaled distances (N, M), assigned (N,) and the mask of own centroids (N, M); Magnet's by default.
        push: G, of scaled distances (N, M) and the mask of rival centroids (N, M); Magnet's by default.
        variance: sigma^2 > 0; None takes the batch's own, with gradient.

    Returns:
        (N,) losses with gradient to features, centroids and variance; Eq. 2 is their mean.

    Raises:
        ValueError: variance is None and there are fewer than two examples.
    """
    if variance is None:
        variance = batch_variance(features, assigned, centroids)
    scaled = squared_distances(features, centroids).clamp(min=0) / (2 * variance)
    own = classes[assigned].unsqueeze(1) == classes
    return combine(pull(scaled, assigned, own), push(scaled, ~own))


def magnet(
    features: Tensor,
    assigned: Tensor,
    centroids: Tensor,
    classes: Tensor,
    *,
    alpha: float,
    variance: Tensor | float | None = None,
) -> Tensor:
    """Magnet loss in log space, {alpha + d_own^2 / 2 sigma^2 + log sum_rivals exp(-d^2 / 2 sigma^2)}_+ (Eq. 3).

    d_own is the distance to the assigned centroid. Arguments and errors as `clustering_loss`.

    Args:
        features: (N, d).
        assigned: (N,) index of each example's centroid; its class is the example's.
        centroids: (M, d).
        classes: (M,) integers, the class of each centroid.
        alpha: margin, in units of d^2 / 2 sigma^2.
        variance: sigma^2 > 0; None takes the batch's own, with gradient.

    Returns:
        (N,) losses, 0 where there are no rivals; the paper's loss is their mean.
    """
    return clustering_loss(features, assigned, centroids, classes, combine=hinge(alpha), variance=variance)


def magnet_open(
    features: Tensor, assigned: Tensor, centroids: Tensor, classes: Tensor, variance: Tensor | float | None = None
) -> Tensor:
    """Magnet in log space without alpha and its hinge, which would only hide gradients from an attack.

    Arguments and errors as `clustering_loss`.

    Args:
        features: (N, d).
        assigned: (N,) index of each example's centroid; its class is the example's.
        centroids: (M, d).
        classes: (M,) integers, the class of each centroid.
        variance: sigma^2 > 0; None takes the batch's own, with gradient.

    Returns:
        (N,) values of any sign, `magnet` less alpha wherever that is above 0; -inf where there are no rivals.
    """
    return clustering_loss(features, assigned, centroids, classes, combine=torch.add, variance=variance)


@full_precision
def nearest_own(features: Tensor, labels: Tensor, centroids: Tensor, classes: Tensor) -> Tensor:
    """Index of the nearest centroid of each example's own class.

    Args:
        features: (N, d).
        labels: (N,) integers, each with a centroid of its class (not checked: that would stop the device).
        centroids: (M, d).
        classes: (M,) integers.

    Returns:
        (N,) int64 indices into the M centroids.
    """
    with torch.no_grad():
        rivals = labels.unsqueeze(1) != classes
        return squared_distances(features, centroids).masked_fill(rivals, torch.inf).argmin(1)


def nearest_rival(features: Tensor, labels: Tensor, centroids: Tensor, classes: Tensor) -> Tensor:
    """Index of the nearest centroid of another class than each example's (not checked); arguments as `nearest_own`.

    Args:
        features: (N, d).
        labels: (N,) integers.
        centroids: (M, d).
        classes: (M,) integers, the class of each centroid.
    """
    with torch.no_grad():
        own = labels.unsqueeze(1) == classes
        return squared_distances(features, centroids).masked_fill(own, torch.inf).argmin(1)


@full_precision
def batch_centroids(features: Tensor, assigned: Tensor, num_clusters: int, *, fallback: Tensor | None = None) -> Tensor:
    """Means of a batch's clusters, with gradient to the features.

    Args:
        features: (N, d).
        assigned: (N,) cluster of each example, in [0, M).
        num_clusters: M.
        fallback: (M, d) centroids for clusters that the batch lacks, such as the last refit's.

    Returns:
        (M, d) centroids, never NaN.

    Raises:
        ValueError: a cluster has no example and there is no fallback (checking this stops the device once).
    """
    # Not bincount: on a GPU it stops the device to learn its largest entry.
    counts = features.new_zeros(num_clusters).index_add(0, assigned, features.new_ones(len(assigned)))
    absent = counts == 0
    if fallback is None and bool(absent.any()):
        raise ValueError(f"cluster {int(absent.nonzero()[0])} has no example in the batch: pass fallback centroids")
    sums = features.new_zeros(num_clusters, features.shape[1]).index_add(0, assigned, features)
    means = sums / counts.clamp(min=1).unsqueeze(1)
    return means if fallback is None else torch.where(absent.unsqueeze(1), fallback.to(means), means)


@full_precision
def magnet_batch(features: Tensor, assigned: Tensor, classes: Tensor, *, alpha: float) -> Tensor:
    """Stochastic Magnet loss: centroids and variance are the batch's own, gradients flow through both.

    Args:
        features: (N, d) of a batch of M clusters.
        assigned: (N,) cluster of each example, in [0, M), every cluster at least once.
        classes: (M,) integers, the class of each cluster.
        alpha: margin.

    Returns:
        (N,) losses.

    Raises:
        ValueError: a cluster has no example, or there are fewer than two examples.
    """
    centroids = batch_centroids(features, assigned, len(classes))
    return magnet(features, assigned, centroids, classes, alpha=alpha)
