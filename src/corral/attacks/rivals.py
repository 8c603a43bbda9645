"""Objectives for cluster heads: toward one rival centroid, and the training losses of MAT and MMC."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corral.attacks.objectives import Objective, clusters_of
from corral.geometry.scores import cluster_scores, squared_distances
from corral.losses.mat import mat_terms, mmc
from corral.losses.terms import weighted
from corral.models import Classifier, Clusters


@dataclass(frozen=True)
class RivalObjective:
    """The pull toward one rival centroid an image, the `rank`-th nearest to its clean features; see `rival_objective`.

    Attributes:
        rank: 0 for the nearest rival; images with fewer rivals take their farthest.
    """

    rank: int

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """The objective for a batch.

        Raises:
            ValueError: no cluster head, or a label without a rival.
        """
        order = rival_order(model, x, y)
        clusters = cluster_classifier(model)[1]
        rivals = len(clusters.centroids) - (clusters.classes.unsqueeze(0) == y.unsqueeze(1)).sum(1)
        rank = (rivals - 1).clamp_max(self.rank)
        return rival_objective(model, y, order.gather(1, rank.unsqueeze(1)).squeeze(1))


@dataclass(frozen=True)
class MatObjective:
    """MAT's training loss; see `mat_objective`.

    Attributes:
        so_weight: a, of the second-order term.
        bibo_weight: b, of the distance to the clean features.
    """

    so_weight: float = 1.0
    bibo_weight: float = 1.0

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """The objective for a batch.

        Raises:
            ValueError: no cluster head, or a class with several centroids.
        """
        return mat_objective(model, x, y, self.so_weight, self.bibo_weight)


class MmcObjective:
    """The max-Mahalanobis centre loss; see `mmc_objective`."""

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """The objective for a batch.

        Raises:
            ValueError: no cluster head, or a class with several centroids.
        """
        return mmc_objective(model, y)


def cluster_classifier(model: nn.Module) -> tuple[Classifier, Clusters]:
    """The classifier and the clusters that it decides by.

    Raises:
        ValueError: the model is not a corral Classifier whose head has clusters.
    """
    clusters = clusters_of(model)
    if clusters is None:
        raise ValueError("objectives on centroids need a corral Classifier with a ClusterHead")
    assert isinstance(model, Classifier)
    return model, clusters


def rival_order(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(N, M) centroids, those of other classes than the label's first, by distance from the clean features.

    Args:
        model: a classifier with a cluster head.
        x: (N, C, H, W) clean images.
        y: (N,) labels.

    Raises:
        ValueError: no cluster head, or all centroids are of one class.
    """
    classifier, clusters = cluster_classifier(model)
    if clusters.num_classes < 2:
        raise ValueError("a rival centroid needs a second class, the head has one")
    with torch.no_grad():
        distances = squared_distances(classifier.features(x).to(clusters.centroids.dtype), clusters.centroids)
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
    classifier, clusters = cluster_classifier(model)

    def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        features = classifier.features(x_adv)
        logits = classifier.logits_from(features)
        scores = cluster_scores(features.to(clusters.centroids.dtype), clusters.centroids, clusters.effective_variance)
        others = clusters.classes.unsqueeze(0) != y[rows].unsqueeze(1)
        own = scores.masked_fill(others, -torch.inf).amax(1)
        return scores.gather(1, rivals[rows].unsqueeze(1)).squeeze(1) - own, logits

    return evaluate


def mat_objective(
    model: nn.Module, x: Tensor, y: Tensor, so_weight: float = 1.0, bibo_weight: float = 1.0
) -> Objective:
    """MAT's training loss at the adversarial image, FTC + a SO + b (1 - cos(f(x), f(x_adv))).

    BIBO's inner maximum is replaced by its cosine distance at the image itself, as in MAT's adaptive PGD.

    Args:
        model: a classifier with a cluster head of one centroid a class.
        x: (N, C, H, W) clean images.
        y: (N,) labels.
        so_weight: a.
        bibo_weight: b.

    Raises:
        ValueError: no cluster head, or a class with several centroids.
    """
    classifier, centres = _single_centres(model)
    weights = {"ftc": 1.0, "so": so_weight, "bibo": bibo_weight}
    with torch.no_grad():
        clean = classifier.features(x)

    def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        features = classifier.features(x_adv)
        values = weighted(mat_terms(features, centres, y[rows], (clean[rows], features)), weights)
        return values, classifier.logits_from(features)

    return evaluate


def mmc_objective(model: nn.Module, y: Tensor) -> Objective:
    """||f - mu_y||^2 / 2, the loss of max-Mahalanobis centre training (Pang et al. 2020, Eq. 8), to be increased.

    Unlike the cross-entropy of logits f · mu it has no softmax that saturates once features lie at their centres.

    Args:
        model: a classifier with a cluster head of one centroid a class.
        y: (N,) labels.

    Raises:
        ValueError: no cluster head, or a class with several centroids.
    """
    classifier, centres = _single_centres(model)

    def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        features = classifier.features(x_adv)
        return mmc(features, centres, y[rows]), classifier.logits_from(features)

    return evaluate


def _single_centres(model: nn.Module) -> tuple[Classifier, Tensor]:
    """The classifier and the (C, d) centres of its classes."""
    classifier, clusters = cluster_classifier(model)
    if clusters.index.shape[1] != 1:
        raise ValueError(f"this loss needs one centroid a class, the head has up to {clusters.index.shape[1]}")
    return classifier, clusters.centroids[clusters.index[:, 0]]
