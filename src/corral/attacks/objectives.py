"""What an attack maximises: objectives on logits, on features and centroids, and on the published scores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corral.errors import CorralError, closest
from corral.losses import (
    kl,
    magnet_open,
    magnet_published,
    nearest_own,
    soft_cross_entropy,
)
from corral.models import Classifier, Clusters, Head, PublishedHead

# One of the keys of the tables below; `known_objective` checks it.
ObjectiveName = str
LogitObjective = Callable[[Tensor, Tensor], Tensor]

# ClusTR's adaptive attack climbs the training loss of CIFAR-10; the margin decides where the released form saturates.
PUBLISHED_ALPHA = 12.5
# The released ClusTR code keeps the 10 nearest clusters on CIFAR-10 and SVHN, 20 on CIFAR-100.
PUBLISHED_NEAREST, PUBLISHED_NEAREST_MANY, MANY_CLASSES = 10, 20, 10


@dataclass(frozen=True)
class Released:
    """What the released ClusTR code's arithmetic takes from a recipe; the code's defaults where there is none.

    Attributes:
        alpha: of its Magnet loss.
        nearest: clusters that its scores keep; None keeps as many as `published_nearest` says.
    """

    alpha: float = PUBLISHED_ALPHA
    nearest: int | None = None

    def kept(self, clusters: Clusters) -> int:
        """How many nearest clusters count on a head."""
        return published_nearest(clusters) if self.nearest is None else min(self.nearest, len(clusters.centroids))


RELEASED = Released()


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


class ModelObjective(Protocol):
    """An objective that needs more than logits and labels: bound to a model and a batch before the attack."""

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """The objective for a batch of clean images and their labels."""
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
    """The name, if there is such an objective.

    Raises:
        ValueError: there is not.
    """
    known = [*LOGIT_OBJECTIVES, *CONSISTENCY_OBJECTIVES, *CLUSTER_OBJECTIVES]
    if name not in known:
        raise ValueError(f"unknown objective {name!r}{closest(name, known)}; known: {', '.join(known)}")
    return name


def prepare(
    objective: ObjectiveName | LogitObjective | ModelObjective,
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
        largest_label: the largest of the labels where it is known on the host (learning it would stop the device); the
            model must have more classes than that.

    Raises:
        ValueError: an unknown name, or a cluster objective on a model without a cluster head. The objective raises it
            for labels outside the classes, and for logits or values of the wrong shape.
    """
    if not isinstance(objective, str) and not callable(objective):
        return objective.bind(model, x, y)
    if callable(objective):
        return _on_logits(objective, model, y, largest_label)
    if objective in LOGIT_OBJECTIVES:
        return _on_logits(LOGIT_OBJECTIVES[objective], model, y, largest_label)
    if objective in CONSISTENCY_OBJECTIVES:
        return _against_clean(CONSISTENCY_OBJECTIVES[objective], model, x, largest_label)
    known_objective(objective)
    classifier = _by_distance(model, f"objective {objective!r}")
    _check_classes(largest_label, classifier.num_classes)
    made = {"magnet": _magnet, "published_cross_entropy": _published, "published_magnet": _published_magnet}
    return made[objective](classifier, y)


def clusters_of(model: nn.Module) -> Clusters | None:
    """The clusters that a corral Classifier's head decides by; None of a head or a model without."""
    # A plain module may serve as a head too; it has none.
    return getattr(model.head, "clusters", None) if isinstance(model, Classifier) else None


def distance_clusters(model: nn.Module) -> Clusters | None:
    """The same, of heads alone whose logits are Eq. 4's of distances, which ClusTR's protocols are about."""
    clusters = clusters_of(model)
    return clusters if clusters is not None and clusters.by_distance else None


def _by_distance(model: nn.Module, what: str) -> Classifier:
    if distance_clusters(model) is None:
        raise ValueError(f"{what} needs a corral Classifier with a ClusterHead")
    assert isinstance(model, Classifier)
    return model


@dataclass(frozen=True)
class PublishedMagnet:
    """The released code's Magnet loss of the nearest own cluster, "published_magnet" with another alpha.

    Attributes:
        alpha: margin.
    """

    alpha: float

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """The objective for a batch.

        Raises:
            ValueError: the model has no cluster head.
        """
        return _published_magnet(_by_distance(model, "the Magnet loss"), y, self.alpha)


@dataclass(frozen=True)
class ThroughHead:
    """The cross-entropy of the outputs of another head on the model's features, while the model's own head decides.

    Attributes:
        head: from the model's own head, which has clusters, the one to climb.
    """

    head: Callable[[Head], Head]

    def bind(self, model: nn.Module, x: Tensor, y: Tensor) -> Objective:
        """The objective for a batch.

        Raises:
            ValueError: the model has no cluster head.
        """
        if clusters_of(model) is None:
            raise ValueError("an objective through another head needs a corral Classifier with a ClusterHead")
        assert isinstance(model, Classifier)
        return _through(self.head(model.head), model, y)


def published_nearest(clusters: Clusters) -> int:
    """How many nearest clusters the released code's scores keep: D where the head's rule is one, else the paper's."""
    if isinstance(clusters.rule, int):
        return clusters.rule
    if clusters.rule == "nearest":
        return 1
    many = clusters.num_classes > MANY_CLASSES
    return min(PUBLISHED_NEAREST_MANY if many else PUBLISHED_NEAREST, len(clusters.centroids))


def value_and_gradient(target: Objective, x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Objective values, logits and the gradient with respect to the images, from one forward and one backward pass."""
    x_adv = x_adv.detach().requires_grad_(True)
    values, logits = target(x_adv, rows)
    gradient = None
    # A model that rounds its input has no graph back to it: its gradient is zero, and the attack says so by standing.
    if values.requires_grad:
        (gradient,) = torch.autograd.grad(values.sum(), x_adv, allow_unused=True)
    return values.detach(), logits.detach(), torch.zeros_like(x_adv) if gradient is None else gradient


def check_finite(logits: Tensor, gradient: Tensor | None = None) -> None:
    """Refuse what is not a number: NaN logits have an argmax too and would pass for a successful attack.

    Raises:
        CorralError: logits that are not finite, or gradients that are NaN.
    """
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


def _check_logits(logits: Tensor, count: int, largest_label: int | None) -> None:
    if logits.dim() != 2 or len(logits) != count:
        raise ValueError(f"the model must give logits ({count}, classes), found {tuple(logits.shape)}")
    _check_classes(largest_label, logits.shape[1])


def _on_logits(function: LogitObjective, model: nn.Module, y: Tensor, largest_label: int | None) -> Objective:
    def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(x_adv)
        _check_logits(logits, len(rows), largest_label)
        values = function(logits, y[rows])
        if values.shape != rows.shape:
            raise ValueError(f"the objective must give values ({len(rows)},), found {tuple(values.shape)}")
        return values, logits

    return evaluate


def _against_clean(function: LogitObjective, model: nn.Module, x: Tensor, largest_label: int | None) -> Objective:
    with torch.no_grad():
        clean = model(x)
    _check_logits(clean, len(x), largest_label)

    def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(x_adv)
        return function(clean[rows], logits), logits

    return evaluate


def _magnet(model: Classifier, y: Tensor) -> Objective:
    found = model.head.clusters
    assert found is not None

    def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        features = model.features(x_adv)
        assigned = nearest_own(features, y[rows], found.centroids, found.classes)
        values = magnet_open(features, assigned, found.centroids, found.classes, found.variance)
        return values, model.logits_from(features)

    return evaluate


def _published(model: Classifier, y: Tensor) -> Objective:
    assert model.head.clusters is not None
    return _through(PublishedHead(model.head, nearest=published_nearest(model.head.clusters)), model, y)


def _through(other: Head, model: Classifier, y: Tensor) -> Objective:
    """The cross-entropy of another head's outputs on the model's features; the model's own logits decide."""

    def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        features = model.features(x_adv)
        return cross_entropy(other(features), y[rows]), model.logits_from(features)

    return evaluate


def _published_magnet(model: Classifier, y: Tensor, alpha: float = PUBLISHED_ALPHA) -> Objective:
    found = model.head.clusters
    assert found is not None

    def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        features = model.features(x_adv)
        assigned = nearest_own(features, y[rows], found.centroids, found.classes)
        values = magnet_published(
            features, assigned, found.centroids, found.classes, alpha=alpha, variance=found.variance
        )
        return values, model.logits_from(features)

    return evaluate
