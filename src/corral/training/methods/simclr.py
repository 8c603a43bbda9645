"""SimCLR (Chen et al. 2020): the first stage of the contrastive methods, without adversaries."""

import torch
from torch import Tensor

from corral.losses import nt_xent
from corral.registry import register
from corral.training.methods.base import Metrics
from corral.training.methods.encoder import ProjectedMethod, ProjectedOptions


@register
class SimCLR(ProjectedMethod):
    """NT-Xent of two random views of every image of the batch (NCP-ACL Eq. 1)."""

    name = "simclr"

    class Options(ProjectedOptions):
        """SimCLR: NT-Xent at a `temperature` on two views, no labels and no adversary. It trains an encoder."""

    options: Options

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        first, second = self.embedded(torch.cat(self.two_views(x))).chunk(2)
        return nt_xent(first, second, temperature=self.options.temperature), {}
