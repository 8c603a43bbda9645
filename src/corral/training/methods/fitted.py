"""A cluster head on an encoder's features, fitted by k-means of every class: no step of training."""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from corral.attacks.centred import CROSS_ENTROPY, TrainingLoss
from corral.models.heads import HeadRule
from corral.registry import register
from corral.training.features import ANOTHER
from corral.training.methods.base import Context, MethodOptions
from corral.training.methods.clusters import ClusterMethod
from corral.training.recipes.base import Count, ThreatConfig


class FittedClusters(ClusterMethod):
    """The centroids and the variance of the frozen features of `training.start`, by k-means of every class."""

    trains = "head"
    continues_from = "encoder"
    replays = 0
    remedy = ANOTHER
    fitted_rule: ClassVar[HeadRule]

    class Options(MethodOptions):
        """How many `clusters` each class has."""

        clusters: Count = 1

    options: Options

    def __init__(self, context: Context, options: Options) -> None:
        super().__init__(context, options, clusters=options.clusters, rule=self.fitted_rule)
        context.model.backbone.requires_grad_(False)

    @classmethod
    def training_objective(cls, options: Options, threat: ThreatConfig) -> TrainingLoss:
        """The cross-entropy of the head's logits: no loss was trained, and these are what decides."""
        return CROSS_ENTROPY

    def batches(self) -> Iterator[Tensor]:
        return iter(())

    def after_epoch(self) -> dict[str, float]:
        return {"variance": float(self.head.variance)}


@register
class NearestClusters(FittedClusters):
    """The class of the nearest centroid decides."""

    name = "nearest"
    fitted_rule = "nearest"


@register
class SoftClusters(FittedClusters):
    """The softmax over all centroids decides (ClusTR, Eq. 4)."""

    name = "soft"
    fitted_rule = "soft"
