"""A plane through features, for looking at them."""

import torch
from torch import Tensor


def plane(features: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, float]:
    """Project features and centroids on the features' first two principal components.

    Args:
        features: (N, d), d >= 1.
        centroids: (M, d), M may be 0.

    Returns:
        (N, 2) and (M, 2) float32 coordinates and the share of the features' variance in the plane. Signs are fixed
        (the largest loading of each component is positive), so that the same features give the same picture.
    """
    mean = features.mean(0)
    centred = (features - mean).double()
    covariance = centred.T @ centred / max(len(features) - 1, 1)
    values, vectors = torch.linalg.eigh(covariance)
    axes = vectors.flip(1)[:, :2]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    if axes.shape[1] == 1:
        axes = torch.cat([axes, torch.zeros_like(axes)], 1)
    total = values.clamp_min(0).sum()
    share = float(values.flip(0)[:2].clamp_min(0).sum() / total) if total > 0 else 0.0
    return (centred @ axes).float(), ((centroids - mean).double() @ axes).float(), share
