"""The variance of features around the centroids of their classes."""

import torch
from torch import Tensor

from corral.losses.clustering import nearest_own
from corral.precision import full_precision

# Features handled at once where a whole data set's meet all centroids.
CHUNK = 8192


@full_precision
def feature_variance(features: Tensor, labels: Tensor, centroids: Tensor, classes: Tensor) -> Tensor:
    """sigma^2 of a data set, sum_i min_k ||f_i - mu_{y_i,k}||^2 / (N - 1) (ClusTR, after Eq. 3), a scalar tensor.

    Args:
        features: (N, d), N >= 2; they go through in chunks, nothing of size N × M × d is made.
        labels: (N,) integers.
        centroids: (M, d).
        classes: (M,) integers, the class of each centroid.

    Raises:
        ValueError: fewer than two features, or a label without a cluster.
    """
    if len(features) < 2:
        raise ValueError(f"a variance needs at least 2 features, found {len(features)}")
    return squared_distances(features, labels, centroids, classes) / (len(features) - 1)


def squared_distances(features: Tensor, labels: Tensor, centroids: Tensor, classes: Tensor) -> Tensor:
    """The sum of squared distances of features to the nearest centroid of their class; arguments as `feature_variance`.

    Raises:
        ValueError: a label without a cluster.
    """
    if not bool(torch.isin(labels, classes).all()):
        raise ValueError("every label needs a cluster of its class, found a label without one")
    total = features.new_zeros(())
    for start in range(0, len(features), CHUNK):
        points = features[start : start + CHUNK]
        nearest = nearest_own(points, labels[start : start + CHUNK], centroids, classes)
        # The chosen distance as a difference: never negative, and exact where the product form cancels.
        total = total + (points - centroids[nearest]).square().sum()
    return total
