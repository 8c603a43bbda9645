"""A cluster head on an encoder's features, fitted by k-means of every class: no step of training."""

from collections.abc import Iterator

from torch import Tensor

from corral.training.features import ANOTHER
from corral.training.methods.base import Context
from corral.training.methods.clusters import ClusterMethod
from corral.training.recipe_methods import FittedConfig


class FittedClusters(ClusterMethod):
    """The centroids and the variance of the frozen features of `training.start`, by the rule of the recipe's name."""

    replays = 0
    remedy = ANOTHER

    def __init__(self, context: Context, config: FittedConfig) -> None:
        super().__init__(context, clusters=config.clusters, rule=config.name)
        context.model.backbone.requires_grad_(False)

    def batches(self) -> Iterator[Tensor]:
        """None: there is nothing to train."""
        return iter(())

    def after_epoch(self) -> dict[str, float]:
        """Nothing moved: the clusters stay."""
        return {"variance": float(self.head.variance)}
