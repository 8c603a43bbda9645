"""Adversarial clustering: the loss of adversarial features against centroids (corral's own method)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal, Self

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from corral.attacks.centred import CROSS_ENTROPY, TrainingLoss
from corral.attacks.objectives import Released
from corral.attacks.training_loss import FeaturesObjective
from corral.losses import magnet, magnet_open, nearest_own, nearest_rival, weighted
from corral.models import Classifier, ClusterHead
from corral.registry import register
from corral.training.methods.base import Context, MethodOptions, Metrics
from corral.training.methods.clusters import ClusterMethod, LearnedClusters, Neighbourhoods, cluster_head
from corral.training.recipes.base import Count, InnerAttack, NotNegative, Positive, ThreatConfig

if TYPE_CHECKING:
    from corral.training.recipes.recipe import Recipe


@register
class Corral(ClusterMethod):
    """Rows A to E of docs/method.md, section 4; the default is C'.

    C': cross-entropy of the log-space logits of adversarial features, where the centroids are the means of the
    *clean* features of the same batch (by the epoch's k-means assignment; clusters without a member in the batch keep
    the epoch's centroid) and the variance is the clean batch's own times a temperature. The adversary is PGD on the
    same centroids' logits. Gradients flow through means and variance, so the scale of the features is free.
    """

    name = "corral"
    softens = attacks_logits = True

    class Options(MethodOptions):
        """Adversarial clustering: the loss of adversarial features against centroids.

        The rows of docs/method.md: A = magnet loss on centroids "adversarial_batch"; B = magnet on "clean_batch"; C =
        cross_entropy on "clean_batch" with the adversary on the "head"; C' = the same with the adversary on the "batch"
        (default); D = cross_entropy on "learned" centroids; E = D with pull 0.1. The adversary "toward" is C' whose
        images go from the nearest centroid of their class toward the nearest of another class, as NCP-ACL's do. The
        rule is that of the loss and of its adversary too: the maximum of "nearest" is continuous, D-nearest's cut is
        not.
        """

        clusters: Count = 2
        rule: Literal["soft", "nearest", "fuzzy"] = "soft"
        loss: Literal["cross_entropy", "magnet"] = "cross_entropy"
        centroids: Literal["clean_batch", "adversarial_batch", "learned"] = "clean_batch"
        adversary: Literal["batch", "head", "toward"] = "batch"
        alpha: float = 4.0
        pull: NotNegative = 0.0
        temperature: Positive = 1.0
        temperature_learning_rate: NotNegative = 0.0
        batches: Literal["uniform", "neighbourhood"] = "uniform"
        clusters_per_batch: Annotated[int, Field(ge=2)] = 12
        samples_per_cluster: Annotated[int, Field(ge=2)] = 20
        inner: InnerAttack = InnerAttack()

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if self.centroids != "clean_batch" and self.adversary != "head":
                raise ValueError(
                    f"centroids '{self.centroids}' need adversary 'head': there are no clean batch centroids"
                )
            if self.loss == "magnet" and (self.centroids == "learned" or self.temperature_learning_rate > 0):
                raise ValueError("loss 'magnet' has neither learned centroids nor a temperature; use 'cross_entropy'")
            if self.centroids == "learned" and self.temperature_learning_rate > 0:
                raise ValueError("learned centroids learn their variance; temperature_learning_rate must be 0")
            if self.centroids == "learned" and (self.batches == "neighbourhood" or self.temperature != 1):
                raise ValueError("learned centroids go with batches 'uniform' and temperature 1")
            return self

    options: Options

    @classmethod
    def check(cls, recipe: "Recipe") -> None:
        options: Corral.Options = recipe.method  # type: ignore[assignment]
        if options.loss == "magnet" and recipe.training.label_smoothing + recipe.training.class_targets > 0:
            raise ValueError(
                "loss 'magnet' has no soft labels: leave training.label_smoothing and training.class_targets out"
            )
        if options.adversary == "toward" and options.inner.objective is not None:
            raise ValueError("adversary 'toward' is of features, not of logits: leave method.inner.objective out")

    def __init__(self, context: Context, options: Options) -> None:
        super().__init__(
            context, options, clusters=options.clusters, rule=options.rule, temperature=options.temperature
        )
        self.neighbourhoods = Neighbourhoods(self, options.clusters_per_batch, options.samples_per_cluster)
        # D and E learn their clusters.
        self.map = LearnedClusters(options.clusters * context.num_classes, context.model.features_dim, context.device)

    def make_head(self) -> ClusterHead:
        head = super().make_head()
        head.log_temperature.requires_grad_(self.options.temperature_learning_rate > 0)
        return head

    def start(self) -> None:
        super().start()
        if self.options.centroids == "learned":
            self.map.begin(self.head)

    def parameters(self) -> list[tuple[nn.Parameter, float]]:
        if self.options.temperature_learning_rate > 0:
            return [(self.head.log_temperature, self.options.temperature_learning_rate)]
        return []

    def learned(self) -> list[nn.Parameter]:
        return list(self.map.parameters()) if self.options.centroids == "learned" else []

    @property
    def batches_ahead(self) -> bool:
        return self.options.batches == "uniform"

    def batches(self) -> Iterator[Tensor]:
        return self.neighbourhoods.batches() if self.options.batches == "neighbourhood" else super().batches()

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        options, head = self.options, self.head
        assigned = self.assignments[indices]
        if options.centroids == "clean_batch":
            clean = self.model.features(x)
            centroids, variance = self.batch_clusters(clean, assigned)
        elif options.centroids == "learned":
            centroids, variance = self.map.clusters()
        else:
            centroids, variance = head.centroids, head.variance
        if options.adversary == "toward":
            x_adv = self.toward_rivals(x, y, clean.detach(), centroids.detach())
        else:
            attacked = self.model
            if options.adversary == "batch" or options.centroids == "learned":
                attacked = self.model.with_head(head.with_centroids(centroids.detach(), variance.detach()))
            x_adv = self.adversarial(attacked, x, y, options.inner, "cross_entropy")
        features = self.model.features(x_adv)
        if options.centroids == "adversarial_batch":
            centroids, variance = self.batch_clusters(features, assigned)
        elif options.centroids == "learned":
            assigned = nearest_own(features, y, centroids, head.classes)  # learned centroids have no k-means members
        moved = head.with_centroids(centroids, variance)
        logits = moved(features)
        terms = corral_terms(options, moved, features, logits, self.targets(y), assigned)
        losses = weighted(terms, corral_weights(options))
        if options.batches == "neighbourhood":
            self.neighbourhoods.record(losses)
        return losses.mean(), {"adversarial_accuracy": (logits.argmax(1) == y).float().mean()}

    def toward_rivals(self, x: Tensor, y: Tensor, clean: Tensor, centroids: Tensor) -> Tensor:
        """Images in the ball away from the nearest own of (M, d) centroids, toward the nearest rival of clean features.

        They maximise ||f - mu_own||^2 - ||f - mu_rival||^2: the rival's log score less the own, but for the variance.
        """
        own = centroids[nearest_own(clean, y, centroids, self.head.classes)]
        rival = centroids[nearest_rival(clean, y, centroids, self.head.classes)]

        def value(features: Tensor, _: Tensor) -> Tensor:
            return (features - own).square().sum(1) - (features - rival).square().sum(1)

        return self.adversarial(self.features_model, x, y, self.options.inner, value)

    @classmethod
    def training_objective(cls, options: Options, threat: ThreatConfig) -> TrainingLoss:
        """The loss of the adversarial features against the head's clusters, as its nearest own one's where one counts.

        Magnet without alpha and its hinge, which hide gradients.
        """
        if options.pull == 0:
            return CROSS_ENTROPY if options.loss == "cross_entropy" else TrainingLoss("magnet", "magnet")

        def values(model: Classifier, clean: Tensor, features: Tensor, y: Tensor) -> Tensor:
            head = cluster_head(model)
            assigned = nearest_own(features, y, head.centroids, head.classes)
            terms = corral_terms(options, head, features, head(features), y, assigned, hinge=False)
            return weighted(terms, corral_weights(options))

        return TrainingLoss("corral", FeaturesObjective(values), (("loss", options.loss), ("pull", options.pull)))

    @classmethod
    def released(cls, options: Options) -> Released:
        """Its alpha where Magnet is what it trains on."""
        return Released(options.alpha) if options.loss == "magnet" else Released()

    def after_epoch(self) -> dict[str, float]:
        if self.options.centroids == "learned":
            return {"variance": self.map.become(self.head)}
        return self.refit() | {"temperature": float(self.head.log_temperature.detach().exp())}

    def averaged(self) -> dict[str, nn.Module]:
        return super().averaged() | {"map": self.map}

    def fit_average(self) -> None:
        if self.options.centroids == "learned":
            self.map.become(self.head)
        else:
            super().fit_average()

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | self.map.state_dict()

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        self.map.load(tensors)


def corral_terms(
    options: Corral.Options,
    head: ClusterHead,
    features: Tensor,
    logits: Tensor,
    y: Tensor,
    assigned: Tensor,
    *,
    hinge: bool = True,
) -> dict[str, Tensor]:
    """(n,) values of each term of the loss: the cross-entropy of the logits or Magnet, the pull to the own centroid.

    Of (n, d) features, their (n, C) logits by the head, (n,) labels and (n,) assigned centroids. `hinge`: whether
    Magnet has its alpha and hinge.
    """
    centroids, classes, variance = head.centroids, head.classes, head.variance
    if options.loss == "cross_entropy":
        first = F.cross_entropy(logits, y, reduction="none")
    elif hinge:
        first = magnet(features, assigned, centroids, classes, alpha=options.alpha, variance=variance)
    else:
        first = magnet_open(features, assigned, centroids, classes, variance)
    terms: dict[str, Tensor] = {options.loss: first}
    if options.pull > 0:
        terms["pull"] = (features - centroids[assigned]).square().sum(1) / (2 * variance)
    return terms


def corral_weights(options: Corral.Options) -> dict[str, float]:
    """The weights of `corral_terms`."""
    return {options.loss: 1.0, "pull": options.pull}
