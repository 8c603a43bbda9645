"""Magnet and ClusTR (Alfarra et al. 2021) and the variants of its critique (Bhardwaj et al. 2022), in two numerics."""

from collections.abc import Callable, Iterator
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
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
from corral.registry import register
from corral.training.methods.base import Context, MethodOptions, Metrics
from corral.training.methods.clusters import ClusterMethod, LearnedClusters, Neighbourhoods, cluster_head, over_all
from corral.training.recipes.base import Count, InnerAttack, NotNegative, ThreatConfig

Consistency = Callable[[Tensor, Tensor], Tensor]
LOGIT_CONSISTENCIES: dict[str, Consistency] = {"cross_entropy": soft_cross_entropy, "kl": kl, "mse": mse}
SCORE_CONSISTENCIES: dict[str, Consistency] = {"cross_entropy": score_cross_entropy, "kl": score_kl, "mse": score_mse}


@register
class ClusTR(ClusterMethod):
    """Magnet loss (Eq. 3) on neighbourhood batches, plus a consistency term and CE(p(x), y) where the recipe says so.

    From random weights it is Magnet training, after a nominal warm start it is ClusTR. With `numerics` "published"
    the loss saturates as in the released code and exponentiated scores serve as logits, which is why its adversary's
    gradient vanishes; with "log" both are the same formulas in log space.

    The adversary maximises the consistency term with p(x) held fixed. Cross-entropy and KL then differ by a constant,
    the entropy of p(x), so they have one adversary: the critique's TRADES_1 (cross-entropy, adversary on KL) is both.
    """

    name = "clustr"

    class Options(MethodOptions):
        """Magnet loss (ClusTR Eq. 3) from the current weights; with a warm start it is ClusTR.

        `numerics` "published" is the released code's epsilon-saturated loss and, where p of Eq. 4 is needed,
        exponentiated scores of the `nearest` nearest clusters used as logits; "log" is the same mathematics in log
        space. To tell apart what each does, "published_log_loss" has the loss alone in log space,
        "published_log_scores" the scores alone.

        `consistency` compares an image with its adversarial self, times `consistency_weight`: p(x) with p(x_adv) by
        "cross_entropy" (QTRADES, ClusTR Eq. 6), "kl" or "mse"; the features by "features_mse" (what the critique's code
        has where its formula has p); "magnet" is the Magnet loss of x_adv (its ClusTR+ADV). The adversary maximises the
        same. `rule` decides and does not train: in log space p is over all clusters (D-nearest is a rule of inference),
        of Eq. 4 or, by the rule "fuzzy", memberships of fuzzy c-means (the critique, Sec. 5.1). `cross_entropy_weight`
        × CE(p(x), y) is the critique's +CE. p takes its `centroids` and variance from the "batch", or from the
        "epoch"'s refit, as the released code does; "learned" ones are parameters that begin as k-means finds them,
        which is what decides then too (the critique's learnable conversion from embeddings to logits, Sec. 4.2).
        """

        clusters: Count = 2
        rule: Literal["soft", "nearest", "fuzzy"] | Count = "soft"
        alpha: float = 12.5
        numerics: Literal["log", "published", "published_log_loss", "published_log_scores"] = "log"
        clusters_per_batch: Annotated[int, Field(ge=2)] = 12
        samples_per_cluster: Annotated[int, Field(ge=2)] = 20
        consistency: Literal["none", "cross_entropy", "kl", "mse", "features_mse", "magnet"] = "none"
        consistency_weight: NotNegative = 0.0
        consistency_reduction: Literal["mean", "sum"] = "mean"
        cross_entropy_weight: NotNegative = 0.0
        centroids: Literal["batch", "epoch", "learned"] = "batch"
        nearest: Count = 10
        inner: InnerAttack = InnerAttack(steps=1, step_ratio=1.25)

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if (self.consistency == "none") != (self.consistency_weight == 0):
                raise ValueError("consistency_weight goes with consistency: 'none' and 0, or a kind and more than 0")
            if self.consistency == "none" and self.consistency_reduction == "sum":
                raise ValueError("consistency_reduction 'sum' needs a consistency")
            if self.centroids == "epoch" and not self.scores:
                raise ValueError(
                    "centroids 'epoch' needs consistency 'cross_entropy', 'kl' or 'mse', or a cross_entropy_weight"
                )
            if self.centroids == "learned" and not (self.log_scores and self.cross_entropy_weight > 0):
                raise ValueError("centroids 'learned' need a cross_entropy_weight and scores in log space")
            return self

        @property
        def log_loss(self) -> bool:
            """Whether Magnet is computed in log space."""
            return self.numerics in ("log", "published_log_loss")

        @property
        def log_scores(self) -> bool:
            """Whether p of Eq. 4 is computed in log space, from all clusters."""
            return self.numerics in ("log", "published_log_scores")

        @property
        def scores(self) -> bool:
            """Whether a term of the loss needs p of Eq. 4."""
            return self.consistency in ("cross_entropy", "kl", "mse") or self.cross_entropy_weight > 0

    options: Options

    def __init__(self, context: Context, options: Options) -> None:
        super().__init__(context, options, clusters=options.clusters, rule=options.rule)
        # Learned logits have clusters of their own beside those of k-means, which Magnet's batches are drawn by.
        total, width = options.clusters * context.num_classes, context.model.features_dim
        self.found = torch.zeros(total, width, device=context.device)
        self.map = LearnedClusters(total, width, context.device) if options.centroids == "learned" else None
        self.neighbourhoods = Neighbourhoods(self, options.clusters_per_batch, options.samples_per_cluster)

    @property
    def fitted(self) -> Tensor:
        """(M, d) centroids that k-means found."""
        return self.head.centroids if self.map is None else self.found

    def start(self) -> None:
        super().start()
        self.found = self.head.centroids
        if self.map is not None:
            self.map.begin(self.head)

    def learned(self) -> list[nn.Parameter]:
        return [] if self.map is None else list(self.map.parameters())

    def after_epoch(self) -> dict[str, float]:
        numbers = self.refit()
        self.found = self.head.centroids
        if self.map is not None:
            self.map.become(self.head)
        return numbers

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | ({} if self.map is None else {"found": self.found, **self.map.state_dict()})

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        if self.map is not None:
            self.found = tensors["found"].to(self.found)
            self.map.load(tensors)

    def batches(self) -> Iterator[Tensor]:
        return self.neighbourhoods.batches()

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        options, batch = self.options, self.neighbourhoods
        features = self.model.features(x)
        terms = {"magnet": self.magnet(features)}
        batch.record(terms["magnet"])
        head = self.head
        if self.map is not None:
            head = head.with_centroids(*self.map.clusters())
        elif options.scores and options.centroids == "batch":
            head = head.with_centroids(*self.batch_clusters(features, batch.ids[batch.local]))
        adversarial = features
        if options.consistency == "magnet":
            x_adv = self.adversarial(self.features_model, x, y, options.inner, self.reach)
            terms["consistency"] = self.magnet(self.model.features(x_adv))
        elif options.consistency != "none":
            fixed = head.with_centroids(head.centroids.detach(), head.variance.detach())
            through, consistency = comparison(options, fixed)
            x_adv = self.consistency_attack(self.model.with_head(through), x, y, options.inner, consistency)
            adversarial = self.model.features(x_adv)
        terms |= score_terms(options, head, features, features, adversarial, y)
        metrics = {name: values.mean().detach() for name, values in terms.items()}
        return weighted(terms, clustr_weights(options, len(x))).mean(), metrics

    @classmethod
    def training_objective(cls, options: Options, threat: ThreatConfig) -> TrainingLoss:
        """Magnet of the adversarial features, their consistency with the clean ones and their cross-entropy.

        Against the clusters of the head, with the nearest own one for the assigned one, in the numerics of training but
        for alpha and hinge of a Magnet in log space, which hide gradients. A consistency that training sums over the
        batch has the weight that it has in a full one.
        """
        batch = options.clusters_per_batch * options.samples_per_cluster
        weights = clustr_weights(options, batch)

        def values(model: Classifier, clean: Tensor, features: Tensor, y: Tensor) -> Tensor:
            head = cluster_head(model)
            assigned = nearest_own(features, y, head.centroids, head.classes)
            terms = {"magnet": reached(options, features, assigned, head.centroids, head.classes, head.variance)}
            if options.consistency == "magnet":
                terms["consistency"] = terms["magnet"]
            return weighted(terms | score_terms(options, head, features, clean, features, y), weights)

        alone = options.consistency == "none" and options.cross_entropy_weight == 0
        if alone and options.log_loss:
            return TrainingLoss("magnet", "magnet")
        settings: dict[str, Setting] = {} if options.log_loss else {"alpha": options.alpha}
        if alone:
            return TrainingLoss("published_magnet", FeaturesObjective(values), tuple(settings.items()))
        settings |= {"numerics": options.numerics, "consistency": options.consistency}
        settings |= {f"{name}_weight": weight for name, weight in weights.items() if name != "magnet"}
        if options.scores and not options.log_scores:
            settings["nearest"] = options.nearest
        return TrainingLoss("clustr", FeaturesObjective(values), tuple(settings.items()))

    @classmethod
    def released(cls, options: Options) -> Released:
        """Its alpha, and the clusters that its scores keep where these are the released code's."""
        return Released(options.alpha, None if options.log_scores else options.nearest)

    def magnet(self, features: Tensor) -> Tensor:
        """(n,) Magnet losses of the current batch's (n, d) features, against their own means and variance."""
        batch = self.neighbourhoods
        loss = magnet_batch if self.options.log_loss else magnet_batch_published
        return loss(features, batch.local, self.head.classes[batch.ids], alpha=self.options.alpha)

    def reach(self, features: Tensor, _: Tensor) -> Tensor:
        """(n,) what ClusTR+ADV's adversary maximises: Magnet, in log space without the hinge that hides gradients."""
        batch = self.neighbourhoods
        classes = self.head.classes[batch.ids]
        centroids = batch_centroids(features, batch.local, len(classes))
        return reached(self.options, features, batch.local, centroids, classes)


@register
class Magnet(ClusTR):
    """The same from random weights, without a warm start."""

    name = "magnet"


def reached(
    options: ClusTR.Options,
    features: Tensor,
    assigned: Tensor,
    centroids: Tensor,
    classes: Tensor,
    variance: Tensor | None = None,
) -> Tensor:
    """(n,) Magnet losses in the recipe's numerics as an adversary climbs them: in log space without alpha and hinge."""
    if options.log_loss:
        return magnet_open(features, assigned, centroids, classes, variance)
    return magnet_published(features, assigned, centroids, classes, alpha=options.alpha, variance=variance)


def scored(options: ClusTR.Options, head: ClusterHead) -> Head:
    """The head that gives p of Eq. 4 on a head's clusters to a loss: log-space logits of all, or published scores.

    The published scores keep the `nearest` clusters in training too, as the released code's do.
    """
    if options.log_scores:
        return over_all(head)
    return PublishedHead(head, nearest=min(options.nearest, len(head.centroids)))


def comparison(options: ClusTR.Options, head: ClusterHead) -> tuple[Head, Consistency]:
    """The head whose outputs the consistency term compares, and how, for clean images and adversarial ones."""
    if options.consistency == "features_mse":
        return FeaturesHead(head.features_dim), features_mse
    kinds = LOGIT_CONSISTENCIES if options.log_scores else SCORE_CONSISTENCIES
    return scored(options, head), kinds[options.consistency]


def score_terms(
    options: ClusTR.Options, head: ClusterHead, labelled: Tensor, clean: Tensor, adversarial: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """(n,) values of the terms beside Magnet, the consistency and the cross-entropy of p, of (n, d) features.

    Cross-entropy is of the features `labelled`: the clean images' in training, the adversarial ones' in an attack.
    `head` has the clusters that p is of.
    """
    terms = {}
    if options.consistency not in ("none", "magnet"):
        through, consistency = comparison(options, head)
        terms["consistency"] = consistency(through(clean), through(adversarial))
    if options.cross_entropy_weight > 0:
        terms["cross_entropy"] = F.cross_entropy(scored(options, head)(labelled), y, reduction="none")
    return terms


def clustr_weights(options: ClusTR.Options, batch: int) -> dict[str, float]:
    """The weights of an image's terms in the mean over a batch of that many; a sum over it counts so many times."""
    times = batch if options.consistency_reduction == "sum" else 1
    consistency = options.consistency_weight * times
    return {"magnet": 1.0, "consistency": consistency, "cross_entropy": options.cross_entropy_weight}
