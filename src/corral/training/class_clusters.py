"""The clusters of every class on the network's features now; several processes each do those of some classes."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from corral.data import Images
from corral.distributed import ranks
from corral.geometry import class_kmeans
from corral.models import Classifier
from corral.models.variance import squared_distances
from corral.training.features import features_of


@dataclass(frozen=True)
class Clusters:
    """Per-class clusters of N training images.

    Attributes:
        centroids: (M, d), in the order of classes.
        classes: (M,) int64 the class of each.
        assignments: (N,) int64 the cluster of each image, one of its class.
        variance: sigma^2, scalar (ClusTR, after Eq. 3).
        extracted: when the features were there, by time.perf_counter.
    """

    centroids: Tensor
    classes: Tensor
    assignments: Tensor
    variance: Tensor
    extracted: float


def class_clusters(
    model: Classifier,
    images: Images,
    clusters: int,
    *,
    num_classes: int,
    generator: torch.Generator,
    check: Callable[[Tensor], None],
) -> Clusters:
    """k-means of each class's eval-mode features, and the variance around the centroids.

    A class's clusters do not depend on other classes: of P processes, r takes the classes r, r + P, ..., so that none
    ever holds the features of more than these.

    Args:
        model: its mode is restored.
        images: with their labels.
        clusters: of each class.
        num_classes: C.
        generator: of the seeding; the same state in all processes.
        check: refuses features, (n, d), that cannot be measured.

    Raises:
        CorralError: as `check` raises.
    """
    assert images.labels is not None
    device = next(model.parameters()).device
    labels = images.labels.to(device)
    own = list(range(ranks.rank(), num_classes, ranks.size()))
    members = torch.isin(labels, torch.tensor(own, device=device)).nonzero().squeeze(1)
    features = features_of(model, images, members)
    ranks.agreed(lambda: check(features))
    extracted = time.perf_counter()
    found, chosen = features[:0], labels[:0]
    if own:
        place = labels[members] // ranks.size()
        clustered = class_kmeans(features, place, clusters, num_classes=len(own), generator=generator, numbers=own)
        found, chosen = clustered.centroids, clustered.assignments % clusters
    else:  # the number that the others draw
        torch.randint(2**62, (), generator=generator, device=generator.device)
    centroids = features.new_zeros(num_classes, clusters, features.shape[1])
    assignments = torch.zeros_like(labels)
    for number, (theirs, of_theirs) in enumerate(zip(ranks.gathered(found), ranks.gathered(chosen), strict=True)):
        centroids[number :: ranks.size()] = theirs.view(-1, *centroids.shape[1:])
        images_of = labels % ranks.size() == number
        assignments[images_of] = labels[images_of] * clusters + of_theirs
    centroids = centroids.flatten(0, 1)
    classes = torch.arange(num_classes, device=device).repeat_interleave(clusters)
    total = ranks.summed(squared_distances(features, labels[members], centroids, classes))
    return Clusters(centroids, classes, assignments, total / (len(labels) - 1), extracted)
