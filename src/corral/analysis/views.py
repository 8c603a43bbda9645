"""The test images as a model sees them: clean, under PGD, and at the closest misclassified points of DDN and C&W."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from corral.analysis.subject import AnalysedModel, labelled, labels_of
from corral.attacks.carlini_wagner import carlini_wagner
from corral.attacks.ddn import ddn
from corral.attacks.minimal import MinimalOutcome
from corral.attacks.pgd import pgd_outcome
from corral.geometry import squared_distances
from corral.training.features import evaluating, extract_features

ViewName = Literal["clean", "pgd", "ddn", "cw"]
BATCH = 250
STEPS = 20


@dataclass(frozen=True)
class View:
    """What a model makes of n images.

    Attributes:
        features: (n, d).
        predicted: (n,) classes.
        distances: (n,) float64 l2 distances from the clean images; infinite where a minimal attack found nothing.
        broken: (n,) bool, misclassified although the clean image is not.
    """

    features: Tensor
    predicted: Tensor
    distances: Tensor
    broken: Tensor


def view(subject: AnalysedModel, name: ViewName) -> View:
    """The test images clean, or attacked: made once for all analyses of a subject.

    "pgd" is PGD-20 on the cross-entropy, one random start, steps of eps/8, at the run's eps and norm: the last point of
    every image, also of one that was misclassified before; the clean image where eps is 0. "ddn" and "cw" are the
    closest misclassified points, and the clean image where none was found.
    """
    if name not in subject.views:
        x, labels = labelled(subject.test)
        points = torch.cat([_moved(subject, name, indices) for indices in torch.split(torch.arange(len(x)), BATCH)])
        found = x if name == "clean" else points
        features, predicted = [], []
        with evaluating(subject.model):
            for part in torch.split(found, BATCH):
                features.append(subject.model.features(part))
                predicted.append(subject.model.logits_from(features[-1]).argmax(1))
        decided = torch.cat(predicted)
        clean = decided if name == "clean" else view(subject, "clean").predicted
        moved = (found.double() - x.double()).flatten(1).norm(dim=1)
        broken = (decided != labels) & (clean == labels)
        if name in ("ddn", "cw"):
            moved = torch.where(broken | (clean != labels), moved, torch.inf)
        subject.views[name] = View(torch.cat(features), decided, moved, broken)
    made: View = subject.views[name]
    return made


def _moved(subject: AnalysedModel, name: ViewName, indices: Tensor) -> Tensor:
    x, y, eps = subject.test.float(indices), labels_of(subject.test)[indices], subject.threat.eps
    if name == "clean" or (name == "pgd" and eps == 0):
        return x
    if name == "pgd":
        options: dict[str, Any] = {
            "eps": eps,
            "norm": subject.threat.norm,
            "steps": STEPS,
            "step_size": 2.5 * eps / STEPS,
        }
        return pgd_outcome(subject.model, x, y, **options, seed=subject.seed, keep="max_loss_restart").x_adv
    found: MinimalOutcome = (
        ddn.outcome(subject.model, x, y, seed=subject.seed)
        if name == "ddn"
        else carlini_wagner.outcome(subject.model, x, y)
    )
    return found.x_adv


def centres_of(subject: AnalysedModel) -> tuple[Tensor, Tensor]:
    """(M, d) centres that a run has for its classes, and their (M,) classes.

    The head's centroids; of one that has none, such as a linear one, the mean features of each class's training images,
    where it has any.
    """
    clusters = subject.model.head.clusters
    if clusters is not None:
        return clusters.centroids, clusters.classes
    features, labels = extract_features(subject.model, subject.train), labels_of(subject.train)
    classes = torch.unique(labels)
    return torch.stack([features[labels == label].mean(0) for label in classes]), classes


def own_centre(features: Tensor, centres: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
    """(n, d) the nearest centre of each feature's label, each of which has one."""
    distances = squared_distances(features, centres).masked_fill(classes != labels.unsqueeze(1), torch.inf)
    return centres[distances.argmin(1)]
