"""Nominal training: cross-entropy on clean images."""

import torch.nn.functional as F
from torch import Tensor

from corral.registry import register
from corral.training.methods.base import LabelMethod, MethodOptions, Metrics


@register
class Nominal(LabelMethod):
    """Cross-entropy of clean logits, linear head."""

    name = "nominal"
    softens = mixes = True

    class Options(MethodOptions):
        """Cross-entropy on clean images, linear head."""

    options: Options

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        logits = self.model(x)
        return F.cross_entropy(logits, self.targets(y)), {"accuracy": (logits.argmax(1) == y).float().mean()}
