"""What every cluster method shares: a head refitted by per-class k-means after each epoch."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from corral.errors import UsageError
from corral.geometry import ClusterLosses, NeighbourhoodSampler
from corral.losses import batch_centroids, batch_variance
from corral.models import Classifier, ClusterHead
from corral.models.heads import HeadRule
from corral.training.class_clusters import class_clusters
from corral.training.features import require_finite
from corral.training.methods.base import Context, Method, read_indices


class ClusterMethod(Method):
    """A method whose head is a ClusterHead over `clusters` k-means centroids a class (docs/method.md, section 2)."""

    remedy = "lower the learning rate"
    """What to do about features that cannot be measured."""

    def __init__(
        self, context: Context, options: Any, *, clusters: int, rule: HeadRule, temperature: float = 1.0
    ) -> None:
        super().__init__(context, options)
        self.clusters, self.rule, self.temperature = clusters, rule, temperature
        self.assignments = torch.zeros(len(context.images), dtype=torch.int64, device=context.device)
        classes = context.num_classes
        members, label = torch.bincount(labels_of(context), minlength=classes).min(0)
        if int(members) < clusters:
            raise UsageError(
                f"method.clusters {clusters} needs as many training images of every class, class {int(label)} has "
                f"{int(members)}: ask for more images (data.train, data.validation)"
                + (" or fewer clusters" if clusters > 1 else "")
            )
        if isinstance(rule, int) and rule > clusters * classes:
            raise UsageError(f"method.rule {rule} keeps more clusters than the {clusters * classes} there are")

    @property
    def head(self) -> ClusterHead:
        """The model's cluster head."""
        return cluster_head(self.model)

    @property
    def fitted(self) -> Tensor:
        """(M, d) centroids that k-means found, the head's: neighbourhoods are drawn by them."""
        return self.head.centroids

    def make_head(self) -> ClusterHead:
        """A cluster head of the right shape with placeholder centroids."""
        device = self.context.device
        classes = torch.arange(self.context.num_classes, device=device).repeat_interleave(self.clusters)
        centroids = torch.zeros(len(classes), self.model.features_dim, device=device)
        return ClusterHead(centroids, classes, 1.0, rule=self.rule, temperature=self.temperature)

    def start(self) -> None:
        self.model.head = self.make_head()
        self.refit()

    def refit(self) -> dict[str, float]:
        """Per-class k-means with k-means++ seeding and the variance, on eval-mode features of the training set."""
        numbers, self.assignments = self._refitted(self.context.order)
        return numbers

    def fit_average(self) -> None:
        """Refit the head to the features of averaged weights; assignments are those of the weights in training."""
        self._refitted(torch.Generator(self.context.device).manual_seed(0))

    def _refitted(self, order: torch.Generator) -> tuple[dict[str, float], Tensor]:
        """Refit the head; numbers to log, and the (N,) cluster of each training image."""
        started = time.perf_counter()
        found = class_clusters(
            self.model,
            self.context.images,
            self.clusters,
            num_classes=self.context.num_classes,
            generator=order,
            check=partial(require_finite, encoder="the network", remedy=self.remedy),
        )
        # Features that have collapsed onto their centroids leave no variance to divide by.
        self.head.refit(found.centroids, found.classes, found.variance.clamp_min(1e-12))
        numbers = {
            "variance": float(found.variance),
            "features_seconds": found.extracted - started,
            "refit_seconds": time.perf_counter() - found.extracted,
        }
        return numbers, found.assignments

    def batch_clusters(self, features: Tensor, assigned: Tensor) -> tuple[Tensor, Tensor]:
        """(M, d) means of the batch's clusters and the batch's variance around them, with gradient.

        Clusters without a member keep the head's centroid. A batch of which no two are of one cluster, as the last one
        of an epoch may be, lies on its own means and has no variance: it takes the head's.
        """
        head = self.head
        centroids = batch_centroids(features, assigned, len(head.centroids), fallback=head.centroids)
        members = features.new_zeros(len(centroids)).index_add(0, assigned, features.new_ones(len(assigned)))
        variance = batch_variance(features, assigned, centroids)
        return centroids, torch.where(members.amax() > 1, variance, head.variance)

    def after_epoch(self) -> dict[str, float]:
        return self.refit()

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"assignments": self.assignments}

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        total = self.clusters * self.context.num_classes
        self.assignments = read_indices(tensors, "assignments", self.assignments, total)


class Neighbourhoods:
    """Magnet's batches: a seed cluster drawn by its recent loss, with its nearest impostors (docs/method.md, 3)."""

    def __init__(self, method: ClusterMethod, clusters_per_batch: int, samples_per_cluster: int) -> None:
        self.method = method
        self.clusters_per_batch, self.samples_per_cluster = clusters_per_batch, samples_per_cluster
        total = method.clusters * method.context.num_classes
        self.losses = ClusterLosses(total, device=method.assignments.device)
        self.local = torch.empty(0, dtype=torch.int64)
        self.ids = torch.empty(0, dtype=torch.int64)

    def batches(self) -> Iterator[Tensor]:
        """Indices of neighbourhoods until as many samples were drawn as the training set has.

        While a batch is out, `local` holds its samples' cluster among the batch's, and `ids` the batch's clusters.
        """
        head, context = self.method.head, self.method.context
        sampler = NeighbourhoodSampler(
            self.method.fitted,
            head.classes,
            self.method.assignments,
            clusters_per_batch=self.clusters_per_batch,
            samples_per_cluster=self.samples_per_cluster,
        )
        self.losses.reset()
        drawn = 0
        while drawn < len(context.images):
            neighbourhood = sampler.draw(self.losses.values, context.order)
            self.local, self.ids = neighbourhood.assignments, neighbourhood.clusters
            drawn += len(neighbourhood.rows)
            yield neighbourhood.rows

    def record(self, losses: Tensor) -> None:
        """Count the current batch's (n,) losses toward the seed probabilities."""
        self.losses.update(self.ids[self.local], losses.detach())


class LearnedClusters(nn.Module):
    """(M, d) centroids and a variance that training moves: the affine map mu / sigma^2 of logits, and log sigma^2.

    The map's scale suits an optimiser, that of centroids far apart does not.
    """

    def __init__(self, clusters: int, features: int, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(clusters, features, device=device))
        self.log_variance = nn.Parameter(torch.zeros((), device=device))

    def begin(self, head: ClusterHead) -> None:
        """Start at a head's clusters."""
        with torch.no_grad():
            self.log_variance.copy_(head.variance.log())
            self.weight.copy_(head.centroids / head.variance)

    def clusters(self) -> tuple[Tensor, Tensor]:
        """(M, d) centroids and the scalar variance, with gradient to the parameters."""
        variance = self.log_variance.exp()
        return self.weight * variance, variance

    def become(self, head: ClusterHead) -> float:
        """Make them a head's clusters; returns the variance."""
        centroids, variance = self.clusters()
        head.refit(centroids, head.classes, variance)
        return float(variance.detach())

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back the state among a checkpoint's tensors."""
        self.load_state_dict({name: tensors[name] for name in ("weight", "log_variance")})


def labels_of(context: Context) -> Tensor:
    """(N,) labels of the training images of a method that needs them."""
    assert context.images.labels is not None
    return context.images.labels


def cluster_head(model: Classifier) -> ClusterHead:
    """The head of a model that a `ClusterMethod` trains."""
    return cast(ClusterHead, model.head)


def over_all(head: ClusterHead) -> ClusterHead:
    """A head on the same clusters whose p of Eq. 4 is over all of them, for a loss.

    D-nearest is a rule of inference (ClusTR, App. B.3), and so is "nearest" there. In a loss, a class that is among
    the D nearest clusters of x and not of x_adv would cost p(x) × `TRUNCATION_PENALTY`.
    """
    moved = head.with_centroids(head.centroids, head.variance)
    if moved.rule != "fuzzy":
        moved.rule = "soft"
    return moved
