"""The scores that the released ClusTR code takes as logits, only for reproducing its protocol."""

import torch
from torch import Tensor

from corral.geometry.scores import class_index, gather_by_class, squared_distances
from corral.models.heads import Head
from corral.precision import full_precision


@full_precision
def _scores(features: Tensor, centroids: Tensor, index: Tensor, variance: Tensor | float, nearest: int) -> Tensor:
    exponents = -squared_distances(features, centroids).clamp(min=0) / (2 * variance)
    kept = torch.zeros_like(exponents, dtype=torch.bool)
    kept.scatter_(1, exponents.topk(min(nearest, exponents.shape[1]), 1).indices, True)
    return gather_by_class(exponents.masked_fill(~kept, -torch.inf), index).exp().sum(2)


def _check_nearest(nearest: int) -> None:
    if type(nearest) is not int or nearest < 1:
        raise ValueError(f"nearest must be a whole number of clusters, at least 1, found {nearest!r}")


def published_scores(
    features: Tensor, centroids: Tensor, classes: Tensor, variance: Tensor | float, *, nearest: int
) -> Tensor:
    """Exponentiated scores sum_k exp(-||f - mu_{c,k}||^2 / 2 sigma^2) over the `nearest` clusters, not normalised.

    The numerator of ClusTR's Eq. 4 as its released code uses it: *as if it were logits*. Only for reproducing that
    protocol: the numbers lie in [0, K], underflow to exactly 0 far from the centroids, and have gradient 0 there,
    which stalls an attack without making the classifier robust. Use `ClusterHead`'s logits for everything else.

    Args:
        features: (N, d).
        centroids: (M, d).
        classes: (M,) integers, every class in [0, C) at least once.
        variance: sigma^2 > 0.
        nearest: how many clusters, the nearest of all classes, count (10 or 20 in the paper); the rest give 0.

    Returns:
        (N, C) scores in [0, K].

    Raises:
        ValueError: `nearest` is below 1, or a class has no cluster.
    """
    _check_nearest(nearest)
    return _scores(features, centroids, class_index(classes).to(features.device), variance, nearest)


class PublishedHead(Head):
    """A cluster head's centroids behind `published_scores`, so that attacks can run on what the paper attacked.

    Only for reproducing the published protocol; the wrapped head is shared, not copied.

    Args:
        head: whose centroids, classes and effective variance are used (its rule is not).
        nearest: how many nearest clusters count.

    Raises:
        ValueError: `nearest` is below 1, or a head that does not decide by distances to centroids.
    """

    def __init__(self, head: Head, *, nearest: int) -> None:
        super().__init__()
        _check_nearest(nearest)
        if head.clusters is None or not head.clusters.by_distance:
            raise ValueError(f"published scores are of distances to centroids, which a {type(head).__name__} has not")
        self.head = head
        self.nearest = nearest
        self.features_dim, self.num_classes = head.features_dim, head.num_classes

    def forward(self, features: Tensor) -> Tensor:
        """(N, C) published scores of features (N, d)."""
        found = self.head.clusters
        assert found is not None
        return _scores(features, found.centroids, found.index, found.effective_variance, self.nearest)
