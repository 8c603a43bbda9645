"""Cluster heads of one centroid a class as the linear layer that they are (MAT, Sec. 3.3)."""

import torch
from torch import Tensor, nn

from corral.models.heads import Clusters, Head

# Lengths of centres that differ by less, relative to them, are equal up to float32.
EQUAL = 1e-5


def linear_equivalent(head: Head) -> nn.Linear:
    """A linear layer with the head's logits, up to a constant for each image, that all classes share.

    -||f - mu||^2 / 2 sigma^2 = mu·f / sigma^2 - ||mu||^2 / 2 sigma^2 - ||f||^2 / 2 sigma^2, whose last term no class
    differs in. Centres of equal length, as MAT's and MMC's, need no bias (MAT Eqs. 10 and 11): the layer has none then.

    Args:
        head: one centroid a class, in any rule but "fuzzy", whose logits are logarithms of distances.

    Returns:
        (d -> C), in the classes' order, of the head's dtype and device, not for training.

    Raises:
        ValueError: the head does not decide by distances to centroids, a class has several, or the rule is "fuzzy":
            its score is no affine function.
    """
    clusters = head.clusters
    if clusters is None or not clusters.by_distance:
        raise ValueError(f"a {type(head).__name__} does not decide by distances to centroids")
    if clusters.rule == "fuzzy":
        raise ValueError('the rule "fuzzy" is no linear layer: its logits are logarithms of distances')
    if clusters.index.shape[1] != 1:
        raise ValueError(f"a linear layer needs one centroid a class, the head has up to {clusters.index.shape[1]}")
    with torch.no_grad():
        centres = clusters.centroids[clusters.index[:, 0]].double()
        variance = clusters.effective_variance.double()
        squares = centres.square().sum(1)
        equal = _equal(squares)
        layer = nn.Linear(centres.shape[1], len(centres), bias=not equal).to(clusters.centroids)
        layer.weight.copy_(centres / variance)
        if not equal:
            layer.bias.copy_(-squares / (2 * variance))
    return layer.requires_grad_(False)


def centres_of_equal_length(clusters: Clusters) -> Tensor | None:
    """(C, d) float64 centres, in the classes' order, of clusters whose largest inner product is its decision.

    None where a class has several centroids, or their lengths differ or are 0.
    """
    if clusters.index.shape[1] != 1:
        return None
    centres = clusters.centroids[clusters.index[:, 0]].detach().double()
    squares = centres.square().sum(1)
    return centres if bool(squares.min() > 0) and _equal(squares) else None


def _equal(squares: Tensor) -> bool:
    """Whether lengths of these squares are equal up to float32."""
    return bool((squares.max() - squares.min()).abs() <= 2 * EQUAL * squares.max())
