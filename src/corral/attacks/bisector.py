"""A search along bisector normals: straight at the boundaries that a cluster head's certificate measures."""

import torch
from torch import Tensor

from corral.attacks.balls import per_example
from corral.attacks.checks import check_counts
from corral.attacks.function import guarded
from corral.attacks.minimal import Closest, MinimalOutcome
from corral.attacks.objectives import classifier_of, clusters_of
from corral.attacks.wrapped_model import image_gradient
from corral.models import Classifier, Clusters
from corral.models.contract import ask

# A step goes this much past the linearised bisector.
OVERSHOOT = 1.02


@guarded()
def bisector_search(
    model: Classifier, x: Tensor, y: Tensor, *, steps: int = 20, rivals: int = 9, seed: int = 0
) -> MinimalOutcome:
    """The closest misclassified points in L2 found by walking to the bisectors between own and rival centroids.

    For each of the nearest rival centroids mu_j and the nearest own one mu_i, Newton steps on (||f - mu_j||^2 -
    ||f - mu_i||^2) / 2, which is 0 on their bisector, along its pixel gradient J^T (mu_i - mu_j); then bisection of the
    segment to what was found. On an isometry the first step lands on the boundary. Arguments as every attack, and

    Args:
        model: a classifier with a cluster head.
        steps: Newton steps towards each rival.
        rivals: number of the nearest centroids of other classes.
        seed: unused, nothing is drawn.

    Raises:
        ValueError: a model without a cluster head, impossible arguments or labels, images not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    check_counts(rivals=rivals)
    classifier, clusters = classifier_of(model, clusters_of(model), "a search along bisectors needs")
    closest = Closest(model, x, y)
    indices = closest.remaining
    if len(indices):
        with torch.no_grad():
            distances = torch.cdist(ask(classifier.features, x[indices]), clusters.centroids)
        own = clusters.classes == y[indices].unsqueeze(1)
        mine = distances.masked_fill(~own, torch.inf).argmin(1)
        away = distances.masked_fill(own, torch.inf)
        order = away.argsort(1)[:, : min(rivals, int((~own).sum(1).min()))]
        for column in range(order.shape[1]):
            _walk(closest, classifier, clusters, indices, mine, order[:, column], steps)
        closest.bisect()
    return closest.outcome()


def _walk(
    closest: Closest, model: Classifier, clusters: Clusters, indices: Tensor, mine: Tensor, rival: Tensor, steps: int
) -> None:
    """Newton steps of every row towards the bisector of its own and its rival centroid."""
    points, y = closest.x[indices], closest.y[indices]
    difference = clusters.centroids[mine] - clusters.centroids[rival]
    middle = (clusters.centroids[mine] + clusters.centroids[rival]) / 2
    for _ in range(steps):
        with torch.enable_grad():
            at = points.detach().requires_grad_(True)
            gaps = ((ask(model.features, at) - middle) * difference).sum(1)
            gradient = image_gradient(gaps, at)
        closest.wrapped.forwards += len(at)
        closest.wrapped.backwards += len(at)
        squares = gradient.flatten(1).square().sum(1)
        sizes = torch.where(squares > 0, OVERSHOOT * gaps.detach() / squares.clamp_min(1e-30), 0.0)
        points = (at.detach() - per_example(sizes, at) * gradient).clamp(0, 1)
        wrong = closest.wrapped.logits(points).argmax(1) != y
        closest.update(indices, points, wrong)
