"""Magnet and ClusTR (Alfarra et al. 2021): clustering training, with QTRADES if asked, in two numerics."""

from collections.abc import Iterator

from torch import Tensor

from corral.losses import magnet_batch, magnet_batch_published, soft_cross_entropy
from corral.models import Classifier, PublishedHead
from corral.training.methods.base import Context, Metrics
from corral.training.methods.clusters import ClusterMethod, Neighbourhoods
from corral.training.recipe import MagnetConfig


class ClusTR(ClusterMethod):
    """Magnet loss (Eq. 3) on neighbourhood batches, plus lambda × CE(p(x), p(x_adv)) if `consistency` is "qtrades".

    From random weights it is Magnet training, after a nominal warm start it is ClusTR. With `numerics` "published"
    the loss saturates as in the released code and QTRADES sees exponentiated scores as logits, which is why its
    adversary's gradient vanishes; with "log" both are the same formulas in log space.
    """

    def __init__(self, context: Context, config: MagnetConfig) -> None:
        super().__init__(context, clusters=config.clusters, rule=config.rule)
        self.config = config
        self.neighbourhoods = Neighbourhoods(self, config.clusters_per_batch, config.samples_per_cluster)

    def batches(self) -> Iterator[Tensor]:
        """Neighbourhoods of clusters."""
        yield from self.neighbourhoods.batches()

    def scored(self, centroids: Tensor, variance: Tensor) -> Classifier:
        """The classifier whose outputs the consistency term compares: log-space logits or published scores."""
        head = self.head.moved(centroids, variance)
        if self.config.numerics == "log":
            return self.model.with_head(head)
        return self.model.with_head(PublishedHead(head, nearest=min(self.config.nearest, len(head.centroids))))

    def loss(self, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Metrics]:
        """Magnet on the batch's own means and variance, and the consistency term on the same clusters."""
        config, batch = self.config, self.neighbourhoods
        features = self.model.features(x)
        magnet = magnet_batch if config.numerics == "log" else magnet_batch_published
        losses = magnet(features, batch.local, self.head.classes[batch.ids], alpha=config.alpha)
        batch.record(losses)
        total = losses.mean()
        metrics = {"magnet": total.detach()}
        if config.consistency == "qtrades":
            centroids, variance = self.batch_clusters(features, batch.ids[batch.local])
            attacked = self.scored(centroids.detach(), variance.detach())
            x_adv = self.adversarial(attacked, x, y, config.inner, "soft_cross_entropy")
            scored = self.scored(centroids, variance)
            consistency = soft_cross_entropy(scored.logits_from(features), scored(x_adv)).mean()
            metrics["consistency"] = consistency.detach()
            total = total + config.consistency_weight * consistency
        return total, metrics
