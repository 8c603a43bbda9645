"""Nominal training: cross-entropy on clean images."""

import torch.nn.functional as F
from torch import Tensor

from corral.training.methods.base import Context, Method, Metrics
from corral.training.recipe_methods import NominalConfig


class Nominal(Method):
    """Cross-entropy of clean logits, linear head."""

    def __init__(self, context: Context, config: NominalConfig | None = None) -> None:
        super().__init__(context)

    def loss(self, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Metrics]:
        """Cross-entropy of the batch."""
        logits = self.model(x)
        return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(1) == y).float().mean()}
