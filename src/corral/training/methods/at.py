"""PGD adversarial training (Madry et al. 2018)."""

import torch.nn.functional as F
from torch import Tensor

from corral.training.methods.base import Context, LabelMethod, Metrics
from corral.training.recipe_methods import AtConfig


class AdversarialTraining(LabelMethod):
    """Cross-entropy of adversarial logits, adversary by PGD on the same, linear head."""

    def __init__(self, context: Context, config: AtConfig) -> None:
        super().__init__(context)
        self.config = config

    def loss(self, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Metrics]:
        """Cross-entropy of the batch's adversarial images."""
        x_adv = self.adversarial(self.model, x, y, self.config.inner, "cross_entropy")
        logits = self.model(x_adv)
        return F.cross_entropy(logits, y), {"adversarial_accuracy": (logits.argmax(1) == y).float().mean()}
