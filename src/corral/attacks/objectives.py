"""What an attack maximises: objectives on logits, on features and centroids, and on the published scores."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corral.attacks.wrapped_model import all_finite, image_gradient
from corral.errors import CorralError, closest
from corral.losses import kl, magnet_open, magnet_published, nearest_own, soft_cross_entropy
from corral.models import Classifier, Clusters, Head, PublishedHead
from corral.models.contract import ask, bare, contracted

# One of the keys of the tables below; `known_objective` checks it.
ObjectiveName = str
LogitObjective = Callable[[Tensor, Tensor], Tensor]

# ClusTR's adaptive attack climbs the training loss of CIFAR-10; the margin decides where the released form saturates.
PUBLISHED_ALPHA = 12.5
# The released ClusTR code keeps the 10 nearest clusters on CIFAR-10 and SVHN, 20 on CIFAR-100.
PUBLISHED_NEAREST, PUBLISHED_NEAREST_MANY, MANY_CLASSES = 10, 20, 10


@dataclass(frozen=True)
class Released:
    """What the released ClusTR code's arithmetic takes from a recipe: alpha of its Magnet loss, and the number of
    nearest clusters that count in its scores, None for `published_nearest`.
    """

    alpha: float = PUBLISHED_ALPHA
    nearest: int | None = None

    def kept(self, clusters: Clusters) -> int:
        """How many nearest clusters count on a head."""
        return published_nearest(clusters) if self.nearest is None else min(self.nearest, len(clusters.centroids))

    def objective(self, name: ObjectiveName, model: nn.Module) -> tuple["ObjectiveLike", dict[str, float]]:
        """A named objective with these numbers, and those that are not what the name means by itself."""
        if name == "published_magnet" and self.alpha != PUBLISHED_ALPHA:
            return PublishedMagnet(self.alpha), {"alpha": self.alpha}
        clusters = distance_clusters(model)
        if name == "published_cross_entropy" and clusters is not None:
            kept = self.kept(clusters)
            if kept != published_nearest(clusters):
                return ThroughHead(partial(PublishedHead, nearest=kept)), {"nearest": kept}
        return name, {}


RELEASED = Released()


class Objective(Protocol):
    """A prepared objective: knows the model, the clean images and their labels."""

    def __call__(self, x_adv: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) values to maximise, with a graph to x_adv, and the (n, classes) logits that decide.

        Args:
            x_adv: (n, C, H, W) images.
            indices: (n,) of these images in the batch that the objective was prepared for.
        """
        ...


class ModelObjective(Protocol):
    """An objective that needs more than logits and labels: bound to a model and a batch before the attack."""

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """The objective for a batch of clean images and their labels.

        Raises:
            ValueError: the model or the labels are not what the objective is for.
        """
        ...


# What can stand for an objective: a name, a function of (logits, labels), or an object that binds itself to a batch.
ObjectiveLike = ObjectiveName | LogitObjective | ModelObjective
# Of (n, C) logits or (n, d) features, and of the images' (n,) indices in the batch, the (n,) values to maximise.
Values = Callable[[Tensor, Tensor], Tensor]


def on_logits(model: nn.Module, values: Values) -> Objective:
    """An objective of the logits, which decide."""
    model = contracted(model)

    def evaluate(x_adv: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(x_adv)
        return values(logits, indices), logits

    return evaluate


def on_features(model: Classifier, values: Values) -> Objective:
    """An objective of the features; the model's own logits decide."""

    def evaluate(x_adv: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        features = ask(model.features, x_adv)
        return values(features, indices), model.logits_from(features)

    return evaluate


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


def targeted_dlr(logits: Tensor, y: Tensor, rivals: Tensor) -> Tensor:
    """(N,) targeted difference of logits ratio (Croce & Hein 2020, Eq. 7) toward one rival class each.

    With fewer than 4 classes, where it is not defined, the difference of the rival's and the label's logit itself.

    Args:
        logits: (N, C).
        y: (N,) labels.
        rivals: (N,) classes other than the label.
    """
    own, other = logits.gather(1, y.unsqueeze(1)).squeeze(1), logits.gather(1, rivals.unsqueeze(1)).squeeze(1)
    if logits.shape[1] < 4:
        return other - own
    largest = logits.topk(4, 1).values
    spread = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2
    return (other - own) / spread.clamp_min(torch.finfo(logits.dtype).tiny * 1e6)


LOGIT_OBJECTIVES: dict[str, LogitObjective] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}
CONSISTENCY_OBJECTIVES: dict[str, LogitObjective] = {"kl": kl, "soft_cross_entropy": soft_cross_entropy}
CLUSTER_OBJECTIVES = ("magnet", "published_cross_entropy", "published_magnet")


def known_objective(name: str) -> ObjectiveName:
    """The name, or ValueError where there is no such objective."""
    known = [*LOGIT_OBJECTIVES, *CONSISTENCY_OBJECTIVES, *CLUSTER_OBJECTIVES]
    if name not in known:
        raise ValueError(f"unknown objective {name!r}{closest(name, known)}; known: {', '.join(known)}")
    return name


def prepare(
    objective: ObjectiveLike,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    largest_label: int | None = None,
) -> Objective:
    """Bind an objective to a model and a batch.

    Args:
        objective: a name, any function of ((n, C) logits, (n,) labels) to (n,) values to maximise, or an object that
            binds itself to the model and the batch.
        model: any module from images to logits; "magnet" and the published objectives need a cluster head.
        x: (N, C, H, W) clean images.
        y: (N,) labels.
        largest_label: of y, where it is known on the host (learning it would stop the device).

    Raises:
        ValueError: an unknown name, or a model that the objective is not for. The objective raises it for labels
            outside the classes, and for logits or values of the wrong shape.
    """
    if not isinstance(objective, str) and not callable(objective):
        return objective.bind(bare(model), x, y)
    if callable(objective) or objective in LOGIT_OBJECTIVES:
        function = objective if callable(objective) else LOGIT_OBJECTIVES[objective]
        return _with_labels(function, model, y, largest_label)
    if objective in CONSISTENCY_OBJECTIVES:
        return _against_clean(CONSISTENCY_OBJECTIVES[objective], model, x, largest_label)
    known_objective(objective)
    classifier, clusters = classifier_of(model, distance_clusters(model), f"objective {objective!r} needs")
    _check_classes(largest_label, classifier.num_classes)
    if objective == "published_cross_entropy":
        return ThroughHead(partial(PublishedHead, nearest=published_nearest(clusters))).bind(model, x, y)
    if objective == "published_magnet":
        return PublishedMagnet(PUBLISHED_ALPHA).bind(model, x, y)
    return _magnet(classifier, clusters, y, magnet_open)


def clusters_of(model: nn.Module) -> Clusters | None:
    """The clusters that a corral Classifier's head decides by; None of a head or a model without."""
    model = bare(model)
    # A plain module may serve as a head too; it has none.
    return getattr(model.head, "clusters", None) if isinstance(model, Classifier) else None


def distance_clusters(model: nn.Module) -> Clusters | None:
    """The same, of heads alone whose logits are Eq. 4's of distances, which ClusTR's protocols are about."""
    clusters = clusters_of(model)
    return clusters if clusters is not None and clusters.by_distance else None


def classifier_of(model: nn.Module, clusters: Clusters | None, what: str) -> tuple[Classifier, Clusters]:
    """The model with the clusters of its head, or ValueError where there are none; `what` needs them."""
    if clusters is None:
        raise ValueError(f"{what} a corral Classifier with a ClusterHead")
    classifier = bare(model)
    assert isinstance(classifier, Classifier)
    return classifier, clusters


@dataclass(frozen=True)
class PublishedMagnet:
    """The released code's Magnet loss of the nearest own cluster, "published_magnet" with another alpha."""

    alpha: float

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """As `ModelObjective`; it needs a cluster head."""
        classifier, clusters = classifier_of(model, distance_clusters(model), "the Magnet loss needs")
        return _magnet(classifier, clusters, y, partial(magnet_published, alpha=self.alpha))


@dataclass(frozen=True)
class ThroughHead:
    """The cross-entropy of another head, made from the model's own one with clusters, which still decides."""

    head: Callable[[Head], Head]

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """As `ModelObjective`; it needs a cluster head."""
        classifier, _ = classifier_of(model, clusters_of(model), "an objective through another head needs")
        other = self.head(classifier.head)
        return on_features(classifier, lambda features, indices: cross_entropy(other(features), y[indices]))


def published_nearest(clusters: Clusters) -> int:
    """How many nearest clusters the released code's scores keep: D where the head's rule is one, else the paper's."""
    if isinstance(clusters.rule, int):
        return clusters.rule
    if clusters.rule == "nearest":
        return 1
    many = clusters.num_classes > MANY_CLASSES
    return min(PUBLISHED_NEAREST_MANY if many else PUBLISHED_NEAREST, len(clusters.centroids))


def value_and_gradient(target: Objective, x_adv: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Objective values, logits and the gradient with respect to the images, from one forward and one backward pass."""
    x_adv = x_adv.detach().requires_grad_(True)
    values, logits = target(x_adv, indices)
    gradient = image_gradient(values, x_adv)
    return values.detach(), logits.detach(), gradient


def check_finite(logits: Tensor, gradient: Tensor | None = None) -> None:
    """Raise CorralError for logits that are not finite and for NaN gradients: NaN logits have an argmax too."""
    if all_finite(logits) and (gradient is None or all_finite(gradient)):
        return
    bad = ~torch.isfinite(logits).all(1)
    if gradient is not None:
        bad = bad | gradient.flatten(1).isnan().any(1)
    if bool(bad.any()):
        raise CorralError(
            f"the model's logits or gradients are not finite for {int(bad.sum())} of {len(logits)} images; "
            "mend the model first"
        )


def _check_classes(largest_label: int | None, classes: int) -> None:
    if largest_label is not None and largest_label >= classes:
        raise ValueError(f"label {largest_label} is outside the model's {classes} classes")


def _with_labels(function: LogitObjective, model: nn.Module, y: Tensor, largest_label: int | None) -> Objective:
    def values(logits: Tensor, indices: Tensor) -> Tensor:
        _check_classes(largest_label, logits.shape[1])
        found = function(logits, y[indices])
        if found.shape != indices.shape:
            raise ValueError(f"the objective must give values ({len(indices)},), found {tuple(found.shape)}")
        return found

    return on_logits(model, values)


def _against_clean(function: LogitObjective, model: nn.Module, x: Tensor, largest_label: int | None) -> Objective:
    with torch.no_grad():
        clean = contracted(model)(x)
    _check_classes(largest_label, clean.shape[1])
    return on_logits(model, lambda logits, indices: function(clean[indices], logits))


def _magnet(model: Classifier, clusters: Clusters, y: Tensor, loss: Callable[..., Tensor]) -> Objective:
    """A Magnet loss with the nearest centroid of the label as the assigned one."""

    def values(features: Tensor, indices: Tensor) -> Tensor:
        assigned = nearest_own(features, y[indices], clusters.centroids, clusters.classes)
        return loss(features, assigned, clusters.centroids, clusters.classes, variance=clusters.variance)

    return on_features(model, values)
