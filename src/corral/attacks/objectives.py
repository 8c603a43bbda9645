"""What an attack maximises: objectives on logits, on features and centroids, and on the published scores."""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corral.losses import kl, magnet_full, soft_cross_entropy
from corral.models import Classifier, ClusterHead, published_scores

ObjectiveName = Literal[
    "cross_entropy", "margin", "dlr", "kl", "soft_cross_entropy", "magnet", "published_cross_entropy"
]
LogitObjective = Callable[[Tensor, Tensor], Tensor]

# The released ClusTR code keeps the 10 nearest clusters on CIFAR-10 and SVHN, 20 on CIFAR-100.
PUBLISHED_NEAREST = 10


class Objective(Protocol):
    """A prepared objective: knows the model, the clean images and their labels."""

    def __call__(self, x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Per-example values to maximise and the logits that decide, for the images `rows` of the batch.

        Args:
            x_adv: (n, C, H, W) images.
            rows: (n,) their places in the batch that the objective was prepared for.

        Returns:
            (n,) values with a graph to x_adv, and (n, classes) logits.
        """
        ...


def rival_logits(logits: Tensor, y: Tensor) -> Tensor:
    """(N,) the largest logit of a class other than the label's."""
    return logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(1)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(N,) cross-entropy of (N, C) logits with (N,) labels."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """(N,) the Carlini-Wagner margin, largest rival logit minus the label's: positive where misclassified."""
    return rival_logits(logits, y) - logits.gather(1, y.unsqueeze(1)).squeeze(1)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """(N,) difference of logits ratio (Croce & Hein 2020): the margin over the spread of the three largest logits.

    Raises:
        ValueError: fewer than 3 classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"dlr needs at least 3 classes, the model has {logits.shape[1]}; use objective='margin'")
    largest = logits.topk(3, 1).values
    spread = (largest[:, 0] - largest[:, 2]).clamp_min(torch.finfo(logits.dtype).tiny * 1e6)
    return margin(logits, y) / spread


LOGIT_OBJECTIVES: dict[str, LogitObjective] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
CONSISTENCY_OBJECTIVES: dict[str, LogitObjective] = {"kl": kl, "soft_cross_entropy": soft_cross_entropy}
CLUSTER_OBJECTIVES = ("magnet", "published_cross_entropy")


def prepare(objective: ObjectiveName | LogitObjective, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
    """Bind an objective to a model and a batch.

    Args:
        objective: a name, or any function of ((n, C) logits, (n,) labels) to (n,) values to maximise.
        model: any module from images to logits; "magnet" and "published_cross_entropy" need a cluster head.
        x: (N, C, H, W) clean images.
        y: (N,) labels.

    Raises:
        ValueError: an unknown name, or a cluster objective on a model without a cluster head.
    """
    if callable(objective):
        return _on_logits(objective, model, y)
    if objective in LOGIT_OBJECTIVES:
        return _on_logits(LOGIT_OBJECTIVES[objective], model, y)
    if objective in CONSISTENCY_OBJECTIVES:
        return _against_clean(CONSISTENCY_OBJECTIVES[objective], model, x)
    if objective not in CLUSTER_OBJECTIVES:
        known = ", ".join([*LOGIT_OBJECTIVES, *CONSISTENCY_OBJECTIVES, *CLUSTER_OBJECTIVES])
        raise ValueError(f"unknown objective {objective!r}; known: {known}")
    if not (isinstance(model, Classifier) and isinstance(model.head, ClusterHead)):
        raise ValueError(f"objective {objective!r} needs a corral Classifier with a ClusterHead")
    return _magnet(model, model.head, y) if objective == "magnet" else _published(model, model.head, y)


def _on_logits(function: LogitObjective, model: nn.Module, y: Tensor) -> Objective:
    def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(x_adv)
        return function(logits, y[rows]), logits

    return evaluate


def _against_clean(function: LogitObjective, model: nn.Module, x: Tensor) -> Objective:
    with torch.no_grad():
        clean = model(x)

    def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(x_adv)
        return function(clean[rows], logits), logits

    return evaluate


def _magnet(model: Classifier, head: ClusterHead, y: Tensor) -> Objective:
    def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        features = model.features(x_adv)
        # The hinge of Eq. 3 only hides gradients from an attack: a large alpha keeps it open.
        values = magnet_full(features, y[rows], head.centroids, head.classes, alpha=1e6, variance=head.variance)
        return values - 1e6, model.logits_from(features)

    return evaluate


def _published(model: Classifier, head: ClusterHead, y: Tensor) -> Objective:
    nearest = min(PUBLISHED_NEAREST, len(head.centroids))

    def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        features = model.features(x_adv)
        scores = published_scores(features, head.centroids, head.classes, head.variance, nearest=nearest)
        return cross_entropy(scores, y[rows]), model.logits_from(features)

    return evaluate
