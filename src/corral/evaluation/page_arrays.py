"""The arrays that the page draws of a run: a plane through its features, and a row of images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corral.evaluation.projection import plane
from corral.evaluation.session import EvaluationSession
from corral.models import Classifier

FEATURE_EXAMPLES = 500
SHOWN_IMAGES = 8


def page_arrays(model: Classifier, session: EvaluationSession, adversarial: Tensor) -> dict[str, NDArray[np.generic]]:
    """What the page draws: features and centroids in two dimensions, images beside their adversarial versions.

    Args:
        model: the model.
        session: its test images; `session.shown` are the images of the row, ascending.
        adversarial: (m, ...) the shown images' adversarial versions, in that order.
    """
    features, predicted, clusters = session.features(), session.predictions(), model.head.clusters
    centroids = features.new_zeros(0, features.shape[1]) if clusters is None else clusters.centroids
    classes = session.labels[:0] if clusters is None else clusters.classes
    points, stars, share = plane(features, centroids)
    few = torch.arange(min(FEATURE_EXAMPLES, len(features)), device=features.device)
    # One of each class in turn, as `one_per_class` found them.
    turn = one_per_class(session.labels[session.shown], len(session.shown))
    rows, adversarial = session.shown[turn], adversarial[turn]
    images = session.images.float(rows)
    return {
        "features2d": points[few].cpu().numpy(),
        "features_labels": session.labels[few].cpu().numpy(),
        "features_predicted": predicted[few].cpu().numpy(),
        "centroids2d": stars.cpu().numpy(),
        "centroids_classes": classes.cpu().numpy(),
        "projection": np.array(f"first two principal components of the test features, {share:.0%} of their variance"),
        "images": (images * 255).round().byte().cpu().numpy(),
        "images_adversarial": adversarial.cpu().numpy(),
        "images_labels": session.labels[rows].cpu().numpy(),
        "images_predicted": predicted[rows].cpu().numpy(),
        "images_adversarial_predicted": session.predictions(adversarial).cpu().numpy(),
    }


def one_per_class(labels: Tensor, count: int) -> Tensor:
    """The first example of each class in turn, then the next, until `count`."""
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    ends = counts.cumsum(0)
    within = torch.arange(len(labels), device=labels.device) - (ends - counts)[labels[order]]
    return order[torch.argsort(within, stable=True)][:count]
