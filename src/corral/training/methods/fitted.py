"""A cluster head on an encoder's features, fitted by k-means of every class: no step of training."""

from collections.abc import Iterator

from torch import Tensor

from corral.attacks.centred import CROSS_ENTROPY, TrainingLoss
from corral.training.features import ANOTHER
from corral.training.methods.base import Context
from corral.training.methods.clusters import ClusterMethod
from corral.training.recipe import ThreatConfig
from corral.training.recipe_methods import FittedConfig


class FittedClusters(ClusterMethod):
    """The centroids and the variance of the frozen features of `training.start`, by the rule of the recipe's name."""

    replays = 0
    remedy = ANOTHER

    def __init__(self, context: Context, config: FittedConfig) -> None:
        super().__init__(context, clusters=config.clusters, rule=config.name)
        context.model.backbone.requires_grad_(False)

    @classmethod
    def training_objective(cls, config: FittedConfig, threat: ThreatConfig) -> TrainingLoss:
        """The cross-entropy of the head's logits: no loss was trained, and these are what decides."""
        return CROSS_ENTROPY

    def batches(self) -> Iterator[Tensor]:
        """None: there is nothing to train."""
        return iter(())

    def after_epoch(self) -> dict[str, float]:
        """Nothing moved: the clusters stay."""
        return {"variance": float(self.head.variance)}
