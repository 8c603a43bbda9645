"""PGD adversarial training (Madry et al. 2018)."""

import torch.nn.functional as F
from torch import Tensor

from corral.registry import register
from corral.training.methods.base import LabelMethod, MethodOptions, Metrics
from corral.training.recipes.base import InnerAttack


@register
class AdversarialTraining(LabelMethod):
    """Cross-entropy of adversarial logits, adversary by PGD on the same, linear head."""

    name = "at"
    softens = mixes = attacks_logits = True

    class Options(MethodOptions):
        """The adversary."""

        inner: InnerAttack = InnerAttack()

    options: Options

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        x_adv = self.adversarial(self.model, x, y, self.options.inner, "cross_entropy")
        logits = self.model(x_adv)
        loss = F.cross_entropy(logits, self.targets(y))
        return loss, {"adversarial_accuracy": (logits.argmax(1) == y).float().mean()}


@register
class FromPretrainedWeights(AdversarialTraining):
    """The same from weights trained on other data (Hendrycks et al. 2019): `training.start` names them."""

    name = "at-pretrained"
    continues_from = "weights"
