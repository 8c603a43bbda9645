"""Do perturbations toward a neighbouring cluster cross a classifier's boundary? (NCP-ACL, Table 1 and App. A.1)."""

import torch
from torch import Tensor
from torch.nn import functional

from corral.analysis.document import NONE_RIGHT, Found
from corral.analysis.registry import register_analysis
from corral.analysis.silhouettes import choice_for, directions_of
from corral.analysis.subject import AnalysedModel, labelled
from corral.attacks import pgd
from corral.attacks.balls import random_in_ball
from corral.attacks.objectives import LogitObjective
from corral.geometry import kmeans
from corral.losses import negative_cosine
from corral.models import FeaturesHead
from corral.training.features import evaluating
from corral.training.methods.ncp_acl import RESTARTS

# The paper's 5 steps of eps / 4, toward the second nearest centroid.
STEPS, STEP, NEIGHBOUR = 5, 0.25, 2
BATCH = 250


@register_analysis(
    "cluster_attack",
    earlier=("pursuit",),
    short="Pursuit of a neighbour",
    title="Does a push toward a neighbouring cluster cross the boundary?",
    text="Of the test images classified right, from one uniform start each: how far the probability of the true "
    "class falls and how many are misclassified by that noise, by five steps toward the second nearest centroid, "
    "away from the nearest, both, and up the cross-entropy. Only the last knows labels; the nearer the others come "
    "to it, the better clusters stand in for them.",
    columns=(
        ("classified right", "right", 1.0, 0),
        ("clusters", "clusters", 1.0, 0),
        ("noise: probability less", "noise decrease", 100.0, 1),
        ("misclassified", "noise success", 100.0, 1),
        ("toward: probability less", "pursuit decrease", 100.0, 1),
        ("misclassified, toward", "pursuit success", 100.0, 1),
        ("misclassified, away", "away success", 100.0, 1),
        ("misclassified, both", "both success", 100.0, 1),
        ("misclassified, with labels", "labelled success", 100.0, 1),
    ),
    unit="percent; mean ± sd over seeds",
    attacks=("PGD",),
)
def cluster_attack(subject: AnalysedModel) -> Found:
    """Random noise against perturbations by clusters of features, on the test images that are classified right.

    Clusters are spherical k-means of the training images' features, K by the silhouette over the candidates of the
    analysis `silhouettes`. Every perturbation is of the run's eps and norm and from the same uniform start: `noise` is
    that start, `pursuit` goes toward the second nearest centroid, `away` from the nearest, `both` does both (Eq. 4),
    `labelled` goes up the cross-entropy, which knows the label. No label plays a part in the others.

    Numbers: `NAME decrease`, by how much the softmax probability of the true class falls, in the mean; `NAME success`,
    the share misclassified; `clusters`; `right`, how many images were classified right.
    """
    features = directions_of(subject)
    generator = torch.Generator().manual_seed(subject.seed)
    choice = choice_for(subject, features, generator)
    found = kmeans(features, choice.k, spherical=True, seeding="afk-mc2", restarts=RESTARTS, generator=generator)
    # A cluster without members is a copy of another, and no neighbour.
    centroids = found.centroids[torch.bincount(found.assignments, minlength=choice.k) > 0]
    x, y = labelled(subject.test)
    before, right = _probabilities(subject, x, y)
    numbers = {"clusters": float(len(centroids)), "right": float(right.sum())}
    x, y, before = x[right], y[right], before[right]
    names = ("noise", "pursuit", "away", "both", "labelled")
    for name in names if len(x) else ():
        after, still = _probabilities(subject, _moved(subject, name, x, y, centroids), y)
        numbers[f"{name} decrease"] = float((before - after).mean())
        numbers[f"{name} success"] = float((~still).double().mean())
    absent = {f"{name} {part}": NONE_RIGHT for name in names for part in ("decrease", "success")}
    return Found(numbers, absent=absent)


def _moved(subject: AnalysedModel, name: str, x: Tensor, y: Tensor, centroids: Tensor) -> Tensor:
    """All images perturbed; each kind from the same start."""
    generator = torch.Generator().manual_seed(subject.seed)
    eps, norm = subject.threat.eps, subject.threat.norm
    if name == "noise":
        return torch.cat([random_in_ball(part, eps, norm, generator) for part in torch.split(x, BATCH)])
    model = subject.model if name == "labelled" else subject.model.with_head(FeaturesHead(centroids.shape[1]))
    moved = []
    for part, labels in zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True):
        objective: LogitObjective | str = "cross_entropy"
        if name != "labelled":
            with evaluating(subject.model):
                objective = _pursuit(name, subject.model.features(part), centroids)
        x_adv = pgd(
            model, part, labels, eps=eps, norm=norm, steps=STEPS, step_size=max(STEP * eps, 1e-12), keep="last",
            objective=objective, generator=generator,
        )  # fmt: skip
        moved.append(x_adv)
    return torch.cat(moved)


def _pursuit(name: str, features: Tensor, centroids: Tensor) -> LogitObjective:
    """Eq. 4 or one of its terms for images of these features."""
    near = functional.normalize(features, dim=1) @ functional.normalize(centroids, dim=1).T
    ranked = near.topk(NEIGHBOUR, 1).indices
    own, other = centroids[ranked[:, 0]], centroids[ranked[:, -1]]

    def value(found: Tensor, _: Tensor) -> Tensor:
        away, toward = negative_cosine(found, own), -negative_cosine(found, other)
        return {"away": away, "pursuit": toward, "both": away + toward}[name]

    return value


def _probabilities(subject: AnalysedModel, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) float64 probabilities of the labels, and (n,) whether they are decided for."""
    with evaluating(subject.model):
        logits = torch.cat([subject.model(part) for part in torch.split(x, BATCH)])
    return logits.double().softmax(1).gather(1, y.unsqueeze(1)).squeeze(1), logits.argmax(1) == y
