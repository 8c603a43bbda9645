"""SimCLR (Chen et al. 2020): the first stage of the contrastive methods, without adversaries."""

import torch
from torch import Tensor

from corral.data.views import random_views
from corral.losses import nt_xent
from corral.registry import register
from corral.training.methods.base import MethodOptions, Metrics
from corral.training.methods.encoder import ProjectedMethod, ProjectionConfig, ViewsConfig
from corral.training.recipes.base import Positive


@register
class SimCLR(ProjectedMethod):
    """NT-Xent of two random views of every image of the batch (NCP-ACL Eq. 1)."""

    name = "simclr"

    class Options(MethodOptions):
        """SimCLR: NT-Xent at a `temperature` on two views, no labels and no adversary. It trains an encoder."""

        temperature: Positive = 0.5
        views: ViewsConfig = ViewsConfig()
        projection: ProjectionConfig = ProjectionConfig()

    options: Options

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        augmentation = self.options.views.augmentation()
        views = torch.cat([random_views(x, augmentation, generator=self.context.noise) for _ in range(2)])
        first, second = self.embedded(views).chunk(2)
        return nt_xent(first, second, temperature=self.options.temperature), {}
