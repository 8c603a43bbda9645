"""The arrays that the page draws of a run: a plane through its features, and a row of images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corral.evaluation.subject import Subject

FEATURE_EXAMPLES = 500
SHOWN_IMAGES = 8


def page_arrays(run: Subject, shown: Tensor, adversarial: Tensor) -> dict[str, NDArray[np.generic]]:
    """What the page draws: features and centroids in two dimensions, images beside their adversarial versions.

    `shown` are the (m,) indices of these images, ascending, `adversarial` (m, ...) their adversarial versions.
    """
    features, predicted = run.features(), run.predictions()
    clusters = None if run.classifier is None else run.classifier.head.clusters
    centroids = features.new_zeros(0, features.shape[1]) if clusters is None else clusters.centroids
    classes = run.labels[:0] if clusters is None else clusters.classes
    points, stars, share = plane(features, centroids)
    # One of each class in turn, as `one_per_class` found them.
    turn = one_per_class(run.labels[shown], len(shown))
    shown, adversarial = shown[turn], adversarial[turn]
    arrays = {
        "features2d": points[:FEATURE_EXAMPLES],
        "features_labels": run.labels[:FEATURE_EXAMPLES],
        "features_predicted": predicted[:FEATURE_EXAMPLES],
        "centroids2d": stars,
        "centroids_classes": classes,
        "images": (run.test.float(shown) * 255).round().byte(),
        "images_adversarial": adversarial,
        "images_labels": run.labels[shown],
        "images_predicted": predicted[shown],
        "images_adversarial_predicted": run.predictions(adversarial),
    }
    kind = "logits" if run.classifier is None else "features"
    words = f"first two principal components of the test {kind}, {share:.0%} of their variance"
    return {name: values.cpu().numpy() for name, values in arrays.items()} | {"projection": np.array(words)}


def one_per_class(labels: Tensor, count: int) -> Tensor:
    """The first example of each class in turn, then the next, until `count`."""
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    ends = counts.cumsum(0)
    within = torch.arange(len(labels), device=labels.device) - (ends - counts)[labels[order]]
    return order[torch.argsort(within, stable=True)][:count]


def plane(features: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, float]:
    """Project (N, d) features and (M, d) centroids on the features' first two principal components.

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
