"""SimCLR (Chen et al. 2020): the first stage of the contrastive methods, without adversaries."""

import torch
from torch import Tensor

from corral.data.views import random_views
from corral.losses import nt_xent
from corral.training.methods.base import Context, Metrics
from corral.training.methods.encoder import ProjectedMethod
from corral.training.recipe_encoders import SimclrConfig


class SimCLR(ProjectedMethod):
    """NT-Xent of two random views of every image of the batch (NCP-ACL Eq. 1)."""

    def __init__(self, context: Context, config: SimclrConfig) -> None:
        super().__init__(context, config.projection)
        self.config = config

    def loss(self, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Metrics]:
        """The batch's NT-Xent loss; labels play no part."""
        augmentation = self.config.views.augmentation()
        views = torch.cat([random_views(x, augmentation, generator=self.context.noise) for _ in range(2)])
        first, second = self.embedded(views).chunk(2)
        return nt_xent(first, second, temperature=self.config.temperature), {}
