"""Magnet and ClusTR (Alfarra et al. 2021) and the variants of its critique (Bhardwaj et al. 2022), in two numerics."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corral.losses import (
    batch_centroids,
    clustering_loss,
    features_mse,
    kl,
    magnet_batch,
    magnet_batch_published,
    mse,
    pull_assigned,
    push_soft,
    score_cross_entropy,
    score_kl,
    score_mse,
    soft_cross_entropy,
)
from corral.models import FeaturesHead, Head, PublishedHead
from corral.training.methods.base import Context, Metrics
from corral.training.methods.clusters import ClusterMethod, Neighbourhoods
from corral.training.methods.learned import LearnedClusters
from corral.training.recipe_methods import MagnetConfig

Consistency = Callable[[Tensor, Tensor], Tensor]
LOGIT_CONSISTENCIES: dict[str, Consistency] = {
    "cross_entropy": soft_cross_entropy,
    "kl": kl,
    "mse": mse,
    "features_mse": features_mse,
}
SCORE_CONSISTENCIES: dict[str, Consistency] = {
    "cross_entropy": score_cross_entropy,
    "kl": score_kl,
    "mse": score_mse,
    "features_mse": features_mse,
}


class ClusTR(ClusterMethod):
    """Magnet loss (Eq. 3) on neighbourhood batches, plus a consistency term and CE(p(x), y) where the recipe says so.

    From random weights it is Magnet training, after a nominal warm start it is ClusTR. With `numerics` "published"
    the loss saturates as in the released code and exponentiated scores serve as logits, which is why its adversary's
    gradient vanishes; with "log" both are the same formulas in log space.

    The adversary maximises the consistency term with p(x) held fixed. Cross-entropy and KL then differ by a constant,
    the entropy of p(x), so they have one adversary: the critique's TRADES_1 (cross-entropy, adversary on KL) is both.
    """

    def __init__(self, context: Context, config: MagnetConfig) -> None:
        super().__init__(context, clusters=config.clusters, rule=config.rule)
        self.config = config
        # Learned logits have clusters of their own beside those of k-means, which Magnet's batches are drawn by.
        self.map: LearnedClusters | None = None
        total, width = config.clusters * context.num_classes, context.model.features_dim
        self.found = torch.zeros(total, width, device=context.device)
        if config.centroids == "learned":
            self.map = LearnedClusters(total, width, context.device)
        self.neighbourhoods = Neighbourhoods(self, config.clusters_per_batch, config.samples_per_cluster)

    @property
    def fitted(self) -> Tensor:
        """(M, d) centroids that k-means found."""
        return self.head.centroids if self.map is None else self.found

    def start(self) -> None:
        """Fit the clusters; learned logits begin as theirs."""
        super().start()
        self.found = self.head.centroids
        if self.map is not None:
            self.map.begin(self.head)

    def learned(self) -> list[nn.Parameter]:
        """The learned clusters, at the model's learning rate."""
        return [] if self.map is None else self.map.parameters()

    def after_epoch(self) -> dict[str, float]:
        """Refit the clusters; the head takes the learned ones, where there are such."""
        numbers = self.refit()
        self.found = self.head.centroids
        if self.map is not None:
            self.map.become(self.head)
        return numbers

    def tensors(self) -> dict[str, Tensor]:
        """The clusters' members, and what learned logits have beside the head."""
        return super().tensors() | ({} if self.map is None else {"found": self.found, **self.map.tensors()})

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        super().load(tensors)
        if self.map is not None:
            self.found = tensors["found"].to(self.found)
            self.map.load(tensors)

    def batches(self) -> Iterator[Tensor]:
        """Neighbourhoods of clusters."""
        yield from self.neighbourhoods.batches()

    def loss(self, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Metrics]:
        """Magnet on the batch's own means and variance, and the terms that the recipe adds."""
        config, batch = self.config, self.neighbourhoods
        features = self.model.features(x)
        losses = self.magnet(features)
        batch.record(losses)
        total = losses.mean()
        metrics = {"magnet": total.detach()}
        clusters = self.head.centroids, self.head.variance
        if self.map is not None:
            clusters = self.map.clusters()
        elif config.scores and config.centroids == "batch":
            clusters = self.batch_clusters(features, batch.ids[batch.local])
        if config.consistency == "magnet":
            features_model = self.model.with_head(FeaturesHead(self.model.features_dim))
            x_adv = self.adversarial(features_model, x, y, config.inner, lambda adversarial, _: self.reach(adversarial))
            total = self.added(total, self.magnet(self.model.features(x_adv)), metrics)
        elif config.consistency != "none":
            consistency = (LOGIT_CONSISTENCIES if config.log_scores else SCORE_CONSISTENCIES)[config.consistency]
            centroids, variance = clusters
            attacked = self.model.with_head(self.compared(centroids.detach(), variance.detach()))
            x_adv = self.disagreeing(attacked, x, y, config.inner, consistency)
            compared = self.model.with_head(self.compared(centroids, variance))
            total = self.added(total, consistency(compared.logits_from(features), compared(x_adv)), metrics)
        if config.cross_entropy_weight > 0:
            cross_entropy = F.cross_entropy(self.scored(*clusters)(features), y)
            metrics["cross_entropy"] = cross_entropy.detach()
            total = total + config.cross_entropy_weight * cross_entropy
        return total, metrics

    def magnet(self, features: Tensor) -> Tensor:
        """(n,) Magnet losses of the current batch's (n, d) features, against their own means and variance."""
        batch = self.neighbourhoods
        loss = magnet_batch if self.config.log_loss else magnet_batch_published
        return loss(features, batch.local, self.head.classes[batch.ids], alpha=self.config.alpha)

    def reach(self, features: Tensor) -> Tensor:
        """(n,) what ClusTR+ADV's adversary maximises: Magnet, in log space without the hinge that hides gradients."""
        if not self.config.log_loss:
            return self.magnet(features)
        batch = self.neighbourhoods
        classes = self.head.classes[batch.ids]
        centroids = batch_centroids(features, batch.local, len(classes))
        return clustering_loss(
            features, batch.local, centroids, classes, pull=pull_assigned, push=push_soft, combine=torch.add
        )

    def scored(self, centroids: Tensor, variance: Tensor) -> Head:
        """The head that gives p of Eq. 4 on these clusters to a loss: log-space logits of all, or published scores.

        The published scores keep the `nearest` clusters in training too, as the released code's do.
        """
        head = self.over_all(centroids, variance)
        if self.config.log_scores:
            return head
        return PublishedHead(head, nearest=min(self.config.nearest, len(head.centroids)))

    def compared(self, centroids: Tensor, variance: Tensor) -> Head:
        """The head whose outputs the consistency term compares."""
        if self.config.consistency == "features_mse":
            return FeaturesHead(self.model.features_dim)
        return self.scored(centroids, variance)

    def added(self, total: Tensor, losses: Tensor, metrics: Metrics) -> Tensor:
        """The loss so far with the batch's (n,) consistency losses, weighted and reduced as the recipe says."""
        config = self.config
        metrics["consistency"] = losses.mean().detach()
        reduced = losses.sum() if config.consistency_reduction == "sum" else losses.mean()
        return total + config.consistency_weight * reduced
