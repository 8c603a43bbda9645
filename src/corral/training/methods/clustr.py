"""Magnet and ClusTR (Alfarra et al. 2021) and the variants of its critique (Bhardwaj et al. 2022), in two numerics."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corral.attacks.attack import Setting
from corral.attacks.centred import TrainingLoss
from corral.attacks.objectives import Released
from corral.attacks.training_loss import FeaturesObjective
from corral.losses import (
    batch_centroids,
    features_mse,
    kl,
    magnet_batch,
    magnet_batch_published,
    magnet_open,
    magnet_published,
    mse,
    nearest_own,
    score_cross_entropy,
    score_kl,
    score_mse,
    soft_cross_entropy,
    weighted,
)
from corral.models import Classifier, ClusterHead, FeaturesHead, Head, PublishedHead
from corral.training.methods.base import Context, Metrics
from corral.training.methods.clusters import ClusterMethod, Neighbourhoods, over_all
from corral.training.methods.learned import LearnedClusters
from corral.training.recipe import ThreatConfig
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
        terms = {"magnet": self.magnet(features)}
        batch.record(terms["magnet"])
        head = self.head
        if self.map is not None:
            head = head.moved(*self.map.clusters())
        elif config.scores and config.centroids == "batch":
            head = head.moved(*self.batch_clusters(features, batch.ids[batch.local]))
        adversarial = features
        if config.consistency == "magnet":
            features_model = self.model.with_head(FeaturesHead(self.model.features_dim))
            x_adv = self.adversarial(features_model, x, y, config.inner, lambda adversarial, _: self.reach(adversarial))
            terms["consistency"] = self.magnet(self.model.features(x_adv))
        elif config.consistency != "none":
            fixed = head.moved(head.centroids.detach(), head.variance.detach())
            attacked = self.model.with_head(compared(config, fixed))
            x_adv = self.disagreeing(attacked, x, y, config.inner, consistency_of(config))
            adversarial = self.model.features(x_adv)
        terms |= score_terms(config, head, features, features, adversarial, y)
        metrics = {name: values.mean().detach() for name, values in terms.items()}
        return weighted(terms, clustr_weights(config, len(x))).mean(), metrics

    @classmethod
    def training_objective(cls, config: MagnetConfig, threat: ThreatConfig) -> TrainingLoss:
        """Magnet of the adversarial features, their consistency with the clean ones and their cross-entropy.

        Against the clusters of the head, with the nearest own one for the assigned one, in the numerics of training but
        for alpha and hinge of a Magnet in log space, which hide gradients. A consistency that training sums over the
        batch has the weight that it has in a full one.
        """
        batch = config.clusters_per_batch * config.samples_per_cluster
        weights = clustr_weights(config, batch)

        def values(model: Classifier, clean: Tensor, features: Tensor, y: Tensor) -> Tensor:
            head = model.head
            assert isinstance(head, ClusterHead)
            assigned = nearest_own(features, y, head.centroids, head.classes)
            terms = {"magnet": reached(config, features, assigned, head.centroids, head.classes, head.variance)}
            if config.consistency == "magnet":
                terms["consistency"] = terms["magnet"]
            return weighted(terms | score_terms(config, head, features, clean, features, y), weights)

        alone = config.consistency == "none" and config.cross_entropy_weight == 0
        if alone and config.log_loss:
            return TrainingLoss("magnet", "magnet")
        settings: dict[str, Setting] = {} if config.log_loss else {"alpha": config.alpha}
        if alone:
            return TrainingLoss("published_magnet", FeaturesObjective(values), tuple(settings.items()))
        settings |= {"numerics": config.numerics, "consistency": config.consistency}
        settings |= {f"{name}_weight": weight for name, weight in weights.items() if name != "magnet"}
        if config.scores and not config.log_scores:
            settings["nearest"] = config.nearest
        return TrainingLoss("clustr", FeaturesObjective(values), tuple(settings.items()))

    @classmethod
    def released(cls, config: MagnetConfig) -> Released:
        """Its alpha, and the clusters that its scores keep where these are the released code's."""
        return Released(config.alpha, None if config.log_scores else config.nearest)

    def magnet(self, features: Tensor) -> Tensor:
        """(n,) Magnet losses of the current batch's (n, d) features, against their own means and variance."""
        batch = self.neighbourhoods
        loss = magnet_batch if self.config.log_loss else magnet_batch_published
        return loss(features, batch.local, self.head.classes[batch.ids], alpha=self.config.alpha)

    def reach(self, features: Tensor) -> Tensor:
        """(n,) what ClusTR+ADV's adversary maximises: Magnet, in log space without the hinge that hides gradients."""
        batch = self.neighbourhoods
        classes = self.head.classes[batch.ids]
        centroids = batch_centroids(features, batch.local, len(classes))
        return reached(self.config, features, batch.local, centroids, classes)


def reached(
    config: MagnetConfig,
    features: Tensor,
    assigned: Tensor,
    centroids: Tensor,
    classes: Tensor,
    variance: Tensor | None = None,
) -> Tensor:
    """(n,) Magnet losses in the recipe's numerics as an adversary climbs them: in log space without alpha and hinge."""
    if config.log_loss:
        return magnet_open(features, assigned, centroids, classes, variance)
    return magnet_published(features, assigned, centroids, classes, alpha=config.alpha, variance=variance)


def scored(config: MagnetConfig, head: ClusterHead) -> Head:
    """The head that gives p of Eq. 4 on a head's clusters to a loss: log-space logits of all, or published scores.

    The published scores keep the `nearest` clusters in training too, as the released code's do.
    """
    if config.log_scores:
        return over_all(head)
    return PublishedHead(head, nearest=min(config.nearest, len(head.centroids)))


def compared(config: MagnetConfig, head: ClusterHead) -> Head:
    """The head whose outputs the consistency term compares."""
    return FeaturesHead(head.features_dim) if config.consistency == "features_mse" else scored(config, head)


def consistency_of(config: MagnetConfig) -> Consistency:
    """The consistency of the outputs of `compared`, for clean images and adversarial ones."""
    return (LOGIT_CONSISTENCIES if config.log_scores else SCORE_CONSISTENCIES)[config.consistency]


def score_terms(
    config: MagnetConfig, head: ClusterHead, labelled: Tensor, clean: Tensor, adversarial: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """(n,) values of the terms beside Magnet: the consistency of outputs and the cross-entropy of p, where they count.

    Args:
        config: which terms.
        head: with the clusters that p is of.
        labelled: (n, d) features whose p should be the label's: the clean images' in training, the adversarial ones'
            in an attack.
        clean: (n, d) features of the clean images.
        adversarial: (n, d) features of the adversarial images.
        y: (n,) labels.
    """
    terms = {}
    if config.consistency not in ("none", "magnet"):
        through = compared(config, head)
        terms["consistency"] = consistency_of(config)(through(clean), through(adversarial))
    if config.cross_entropy_weight > 0:
        terms["cross_entropy"] = F.cross_entropy(scored(config, head)(labelled), y, reduction="none")
    return terms


def clustr_weights(config: MagnetConfig, batch: int) -> dict[str, float]:
    """The weights of an image's terms in the mean over a batch of that many; a sum over it counts so many times."""
    times = batch if config.consistency_reduction == "sum" else 1
    weights = {"magnet": 1.0, "consistency": config.consistency_weight * times}
    return weights | {"cross_entropy": config.cross_entropy_weight}
