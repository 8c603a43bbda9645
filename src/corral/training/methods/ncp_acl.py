"""NCP-ACL: DeACL's loss with perturbations from the own cluster toward a neighbouring one (its Eq. 4, Algorithm 1)."""

import time

import torch
from torch import Tensor
from torch.nn import functional

from corral.attacks.objectives import LogitObjective
from corral.errors import CorralError, UsageError
from corral.geometry import choose_clusters, cosine_silhouette, kmeans
from corral.losses import negative_cosine
from corral.training.features import extract_features, require_finite
from corral.training.methods.base import Context
from corral.training.methods.deacl import DeACL
from corral.training.recipe_encoders import NcpAclConfig

# Seedings of each candidate number of clusters: the width is to be the number's, not a start's.
RESTARTS = 3


class NcpAcl(DeACL):
    """x_adv maximises CosSim(f2(x_adv), C_x) - CosSim(f2(x_adv), C_nbr), or one of the two terms alone.

    C_x is the centroid nearest to an image, C_nbr its n-th nearest, of spherical k-means (AFK-MC² seeding) on the
    features of the training images as they are, by the clean branch: before the first epoch and after each. The number
    of clusters is the candidate of the largest silhouette before the first epoch, and stays.
    """

    config: NcpAclConfig

    def __init__(self, context: Context, config: NcpAclConfig) -> None:
        super().__init__(context, config)
        device, most = context.device, max(config.clusters)
        if most >= len(context.images):
            raise UsageError(
                f"method.clusters {most} needs more training images than that, found {len(context.images)}: ask for "
                "fewer clusters or more images (data.train)"
            )
        self.centroids = torch.zeros(0, context.model.features_dim, device=device)
        self.own = torch.zeros(len(context.images), dtype=torch.int64, device=device)
        self.neighbours = self.own.clone()

    def start(self) -> None:
        """Choose how many clusters there are, and fit them."""
        super().start()
        candidates, chosen = self.config.clusters, self.config.clusters[0]
        if len(candidates) > 1:
            features = self._features()
            try:
                chosen = choose_clusters(features, candidates, restarts=RESTARTS, generator=self.context.order).k
            except ValueError as error:
                raise CorralError(f"training.start: the features of the training images: {error}") from error
        self.refit(chosen)

    def _features(self) -> Tensor:
        with self.branch("clean"):
            features = extract_features(self.model, self.context.images)
        require_finite(features, "the encoder", remedy="begin from another encoder, or lower the learning rate")
        if not bool(torch.linalg.vector_norm(features, dim=1).all()):
            raise CorralError(
                "features of training images are zero and have no direction: begin from another encoder, or lower the "
                "learning rate"
            )
        return features

    def refit(self, clusters: int) -> dict[str, float]:
        """Spherical k-means of the features, and every image's own and neighbouring centroid."""
        started = time.perf_counter()
        features = self._features()
        found = kmeans(features, clusters, spherical=True, seeding="afk-mc2", generator=self.context.order)
        members = torch.bincount(found.assignments, minlength=clusters)
        held = int((members > 0).sum())
        if held < 2:
            raise CorralError(
                "the features of all training images have one direction, so that there is no neighbouring cluster: "
                "begin from another encoder, or lower the learning rate"
            )
        self.centroids = found.centroids
        near = functional.normalize(features, dim=1) @ functional.normalize(found.centroids, dim=1).T
        # Of fewer different features than clusters some clusters are empty, and copies of others.
        near[:, members == 0] = -torch.inf
        ranked = near.topk(min(self.config.neighbour, held), 1).indices
        self.own, self.neighbours = ranked[:, 0].contiguous(), ranked[:, -1].contiguous()
        silhouette = float(cosine_silhouette(features, found.assignments).mean())
        seconds = time.perf_counter() - started
        return {"clusters": float(clusters), "silhouette": silhouette, "refit_seconds": seconds}

    def objective(self, kept: Tensor, rows: Tensor) -> LogitObjective:
        """Eq. 4 of the images' rows, by the recipe's strategy."""
        strategy = self.config.strategy
        own, neighbours = self.centroids[self.own[rows]], self.centroids[self.neighbours[rows]]

        def value(features: Tensor, _: Tensor) -> Tensor:
            away, toward = negative_cosine(features, own), -negative_cosine(features, neighbours)
            return away + toward if strategy == "both" else away if strategy == "away" else toward

        return value

    def after_epoch(self) -> dict[str, float]:
        """Fit as many clusters to the features as they are now."""
        return self.refit(len(self.centroids))

    def tensors(self) -> dict[str, Tensor]:
        """The frozen encoder, the centroids and every image's two of them."""
        return super().tensors() | {"centroids": self.centroids, "own": self.own, "neighbours": self.neighbours}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        super().load(tensors)
        device, n, d = self.own.device, len(self.own), self.model.features_dim
        centroids, own, neighbours = tensors["centroids"], tensors["own"], tensors["neighbours"]
        shaped = centroids.dim() == 2 and centroids.shape[1] == d and len(centroids) in self.config.clusters
        for rows in (own, neighbours):
            inside = rows.dtype == torch.int64 and rows.shape == (n,)
            if not (shaped and inside) or int(rows.min()) < 0 or int(rows.max()) >= len(centroids):
                raise ValueError(f"own and neighbours must be ({n},) clusters of centroids (K, {d})")
        self.centroids, self.own, self.neighbours = centroids.to(device), own.to(device), neighbours.to(device)
