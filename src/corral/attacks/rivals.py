"""Objectives for cluster heads: toward one rival centroid, and the training losses of MAT and MMC."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corral.attacks.objectives import Objective, classifier_of, clusters_of, on_features
from corral.geometry.scores import cluster_scores, squared_distances
from corral.losses.mat import mat_terms, mmc
from corral.losses.terms import weighted
from corral.models import Classifier, Clusters
from corral.models.contract import ask


@dataclass(frozen=True)
class RivalObjective:
    """`rival_objective` toward the `rank`-th nearest rival, from 0; images with fewer rivals take their farthest."""

    rank: int

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """As `ModelObjective`; it needs a cluster head, and a rival for each label."""
        order = rival_order(model, x, y)
        clusters = _clustered(model)[1]
        rivals = (clusters.classes != y.unsqueeze(1)).sum(1)
        rank = (rivals - 1).clamp_max(self.rank)
        return rival_objective(model, y, order.gather(1, rank.unsqueeze(1)).squeeze(1))


@dataclass(frozen=True)
class MatObjective:
    """MAT's training loss at the adversarial image, FTC + a SO + b (1 - cos(f(x), f(x_adv))).

    BIBO's inner maximum is replaced by its cosine distance at the image itself, as in MAT's adaptive PGD.

    Attributes:
        so_weight: a, of the second-order term.
        bibo_weight: b, of the distance to the clean features.
    """

    so_weight: float = 1.0
    bibo_weight: float = 1.0

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """As `ModelObjective`; it needs a cluster head of one centroid a class."""
        classifier, centres = _single_centres(model)
        weights = {"ftc": 1.0, "so": self.so_weight, "bibo": self.bibo_weight}
        with torch.no_grad():
            clean = ask(classifier.features, x)

        def values(features: Tensor, indices: Tensor) -> Tensor:
            return weighted(mat_terms(features, centres, y[indices], (clean[indices], features)), weights)

        return on_features(classifier, values)


class MmcObjective:
    """The max-Mahalanobis centre loss, half the squared distance to the label's centre.

    Unlike the cross-entropy of logits f · mu it has no softmax that saturates once features lie at their centres.
    """

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """As `ModelObjective`; it needs a cluster head of one centroid a class."""
        classifier, centres = _single_centres(model)
        return on_features(classifier, lambda features, indices: mmc(features, centres, y[indices]))


def rival_order(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(N, M) centroids, those of other classes than the label's first, by distance from the clean features.

    Raises:
        ValueError: no cluster head, or all centroids are of one class.
    """
    classifier, clusters = _clustered(model)
    if clusters.num_classes < 2:
        raise ValueError("a rival centroid needs a second class, the head has one")
    with torch.no_grad():
        distances = squared_distances(ask(classifier.features, x).to(clusters.centroids.dtype), clusters.centroids)
    own = clusters.classes.unsqueeze(0) == y.unsqueeze(1)
    return distances.masked_fill(own, torch.inf).argsort(1)


def rival_objective(model: nn.Module, y: Tensor, rivals: Tensor) -> Objective:
    """Squared distance to the nearest own centroid minus that to a rival one, over 2 sigma^2.

    Positive exactly where the rival is nearer than every centroid of the label. ||f||^2 cancels, so the gradient by the
    features is (mu_rival - mu_own) / sigma^2: it neither grows nor vanishes with the distance, whatever the other
    centroids do to the logits. With one centroid a class it is the difference of two logits.

    Args:
        model: a classifier with a cluster head; sigma^2 is the head's variance times its temperature.
        y: (N,) labels.
        rivals: (N,) the centroid to go to, one an image.

    Raises:
        ValueError: no cluster head.
    """
    classifier, clusters = _clustered(model)

    def values(features: Tensor, indices: Tensor) -> Tensor:
        scores = cluster_scores(features.to(clusters.centroids.dtype), clusters.centroids, clusters.effective_variance)
        others = clusters.classes != y[indices].unsqueeze(1)
        own = scores.masked_fill(others, -torch.inf).amax(1)
        return scores.gather(1, rivals[indices].unsqueeze(1)).squeeze(1) - own

    return on_features(classifier, values)


def _clustered(model: nn.Module) -> tuple[Classifier, Clusters]:
    return classifier_of(model, clusters_of(model), "objectives on centroids need")


def _single_centres(model: nn.Module) -> tuple[Classifier, Tensor]:
    """The classifier and the (C, d) centres of its classes, or ValueError where a class has several."""
    classifier, clusters = _clustered(model)
    if clusters.index.shape[1] != 1:
        raise ValueError(f"this loss needs one centroid a class, the head has up to {clusters.index.shape[1]}")
    return classifier, clusters.centroids[clusters.index[:, 0]]
