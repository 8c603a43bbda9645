"""NCP-ACL: DeACL's loss with perturbations from the own cluster toward a neighbouring one (its Eq. 4, Algorithm 1)."""

import time
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torch.nn import functional

from corral.attacks.objectives import LogitObjective
from corral.distributed import ranks
from corral.errors import CorralError, UsageError
from corral.geometry import choose_clusters, cluster_sizes, kmeans, mean_width
from corral.losses import negative_cosine
from corral.precision import full_precision
from corral.registry import register
from corral.training.features import features_block, require_finite
from corral.training.methods.base import Context, MethodOptions, read_indices
from corral.training.methods.deacl import BatchFeatures, DeACL
from corral.training.methods.encoder import DualNorm
from corral.training.recipes.base import InnerAttack, Positive

# Seedings of each candidate number of clusters: the width is to be the number's, not a start's.
RESTARTS = 3


@register
class NcpAcl(DeACL):
    """x_adv maximises CosSim(f2(x_adv), C_x) - CosSim(f2(x_adv), C_nbr), or one of the two terms alone.

    The centroids are of spherical k-means (AFK-MC² seeding) on the features of the training images as they are, by the
    clean branch: before the first epoch and after each. The number of clusters is the candidate of the largest
    silhouette before the first epoch, and stays. C_x is the centroid nearest to an image, C_nbr its n-th nearest: of
    the augmented image in its batch, by the features that the loss compares (Algorithm 1), or, where `assignment` is
    "epoch", of the image as it is, stored when the centroids are fitted.
    """

    name = "ncp-acl"

    class Options(MethodOptions):
        """NCP-ACL: Eq. 3 with the adversary of Eq. 4.

        `clusters` are the candidates that the silhouette chooses from; a single one is taken. The adversary goes "away"
        from the own centroid (strategy i), "toward" the `neighbour`-th nearest (ii; the own is the first), or "both"
        (iii). `assignment` says when an image's own and neighbouring centroid are found: in its "batch", of the
        augmented image that is attacked (Algorithm 1), or once an "epoch", of the image as it is (a departure, for
        comparison).
        """

        robust_weight: Positive = 6.0
        clusters: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]
        neighbour: Annotated[int, Field(ge=2)] = 2
        strategy: Literal["away", "toward", "both"] = "both"
        assignment: Literal["batch", "epoch"] = "batch"
        dual_norm: DualNorm = "adversarial"
        inner: InnerAttack = InnerAttack()

        @field_validator("clusters")
        @classmethod
        def _distinct(cls, clusters: list[int]) -> list[int]:
            if len(set(clusters)) < len(clusters):
                raise ValueError("clusters must be different numbers")
            return clusters

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if self.neighbour > min(self.clusters):
                raise ValueError(
                    f"neighbour {self.neighbour} is beyond the {min(self.clusters)} clusters of a candidate"
                )
            return self

    options: Options

    def __init__(self, context: Context, options: Options) -> None:
        super().__init__(context, options)
        device, most = context.device, max(options.clusters)
        if most >= len(context.images):
            raise UsageError(
                f"method.clusters {most} needs more training images than that, found {len(context.images)}: ask for "
                "fewer clusters or more images (data.train)"
            )
        self.centroids = torch.zeros(0, context.model.features_dim, device=device)
        # Whether a cluster has members: of fewer different features than clusters some are copies of others.
        self.held = torch.zeros(0, dtype=torch.bool, device=device)
        # (N, 2) own and neighbouring centroid of every training image; only where they are found once an epoch.
        self.stored: Tensor | None = None

    def start(self) -> None:
        super().start()
        candidates, chosen = self.options.clusters, self.options.clusters[0]
        if len(candidates) > 1:
            features = self._features()
            try:
                order = self.context.order
                chosen = choose_clusters(features, candidates, restarts=RESTARTS, generator=order, shared=True).k
            except ValueError as error:
                raise CorralError(f"training.start: the features of the training images: {error}") from error
        self.refit(chosen)

    def _features(self) -> Tensor:
        """This process's block of the training images' features."""
        with self.branch("clean"):
            features = features_block(self.model, self.context.images)
        ranks.agreed(lambda: _require_directions(features))
        return features

    def refit(self, clusters: int) -> dict[str, float]:
        """Spherical k-means of the features, and every image's own and neighbouring centroid."""
        started = time.perf_counter()
        features = self._features()
        order = self.context.order
        found = kmeans(features, clusters, spherical=True, seeding="afk-mc2", generator=order, shared=True)
        self.centroids = found.centroids
        self.held = cluster_sizes(found.assignments, clusters, shared=True) > 0
        if int(self.held.sum()) < 2:
            raise CorralError(
                "the features of all training images have one direction, so that there is no neighbouring cluster: "
                "begin from another encoder, or lower the learning rate"
            )
        if self.options.assignment == "epoch":
            self.stored = torch.cat(ranks.gathered(self.nearest(features)))
        silhouette = mean_width(features, found.assignments, shared=True)
        seconds = time.perf_counter() - started
        return {"clusters": float(clusters), "silhouette": silhouette, "refit_seconds": seconds}

    def nearest(self, features: Tensor) -> Tensor:
        """(n, 2) the nearest and the n-th nearest centroid of (n, d) features."""
        return nearest_and_nth(features, self.centroids, self.held, self.options.neighbour)

    def objective(self, features: BatchFeatures) -> LogitObjective:
        """Eq. 4 for the images of a batch, by the recipe's strategy."""
        strategy = self.options.strategy
        pursued = self.nearest(features.clean()) if self.stored is None else self.stored[features.indices]
        own, neighbours = self.centroids[pursued].unbind(1)

        def value(features: Tensor, _: Tensor) -> Tensor:
            away, toward = negative_cosine(features, own), -negative_cosine(features, neighbours)
            return away + toward if strategy == "both" else away if strategy == "away" else toward

        return value

    def after_epoch(self) -> dict[str, float]:
        return self.refit(len(self.centroids))

    def tensors(self) -> dict[str, Tensor]:
        stored = {} if self.stored is None else {"stored": self.stored}
        return super().tensors() | {"centroids": self.centroids, "held": self.held} | stored

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        device, n, d = self.centroids.device, len(self.context.images), self.model.features_dim
        if "own" in tensors or ("stored" in tensors) != (self.options.assignment == "epoch"):
            raise ValueError("the checkpoint's clusters were assigned in another way: train the run anew")
        centroids, held = tensors["centroids"], tensors["held"]
        if centroids.dim() != 2 or centroids.shape[1] != d or len(centroids) not in self.options.clusters:
            raise ValueError(f"centroids must be (K, {d}), K one of method.clusters")
        if held.dtype != torch.bool or held.shape != centroids.shape[:1] or int(held.sum()) < 2:
            raise ValueError("held must say of every cluster whether it has members, and two must have some")
        if "stored" in tensors:
            self.stored = read_indices(tensors, "stored", torch.empty(n, 2, device=device), len(centroids))
        self.centroids, self.held = centroids.to(device), held.to(device)


@full_precision
def nearest_and_nth(features: Tensor, centroids: Tensor, held: Tensor, neighbour: int) -> Tensor:
    """(n, 2) indices of the nearest and the n-th nearest of (K, d) centroids by the cosine (NCP-ACL, Algorithm 1).

    Only centroids with members count, (K,) bool `held`: others may be copies of those. Where fewer than n, from 2, have
    members, the farthest of those stands for the n-th nearest.
    """
    near = functional.normalize(features, dim=1) @ functional.normalize(centroids, dim=1).T
    ranked = near.masked_fill(~held, -torch.inf).topk(min(neighbour, int(held.sum())), dim=1)
    return ranked.indices[:, [0, -1]]


def _require_directions(features: Tensor) -> None:
    """Refuse features that are not finite, or zero.

    Raises:
        CorralError: with the remedy.
    """
    require_finite(features, "the encoder", remedy="begin from another encoder, or lower the learning rate")
    if not bool(torch.linalg.vector_norm(features, dim=1).all()):
        raise CorralError(
            "features of training images are zero and have no direction: begin from another encoder, or lower the "
            "learning rate"
        )
