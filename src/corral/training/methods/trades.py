"""TRADES (Zhang et al. 2019) and its quick form QTRADES (ClusTR, after Eq. 6), linear head."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from corral.losses import kl, soft_cross_entropy, unlogged_kl
from corral.training.methods.base import Context, Method, Metrics
from corral.training.recipe_methods import TradesConfig

CONSISTENCIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": kl,
    "cross_entropy": soft_cross_entropy,
    "unlogged_kl": unlogged_kl,
}


class Trades(Method):
    """CE(p(x), y) + weight × consistency(p(x), p(x_adv)), where x_adv maximises the consistency term.

    With "kl" and 10 steps it is TRADES (its Eq. 5), with "cross_entropy" and one step QTRADES. The adversary starts at
    a uniform point of the ball; TRADES's code starts it 0.001 × normal noise away from x.
    """

    def __init__(self, context: Context, config: TradesConfig) -> None:
        super().__init__(context)
        self.config = config

    def loss(self, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Metrics]:
        """Cross-entropy of the batch and its consistency term."""
        config = self.config
        consistency = CONSISTENCIES[config.consistency]
        x_adv = self.disagreeing(self.model, x, y, config.inner, consistency)
        logits, adversarial = self.model(x), self.model(x_adv)
        cross_entropy, term = F.cross_entropy(logits, y), consistency(logits, adversarial).mean()
        metrics = {
            "cross_entropy": cross_entropy.detach(),
            "consistency": term.detach(),
            "accuracy": (logits.argmax(1) == y).float().mean(),
            "adversarial_accuracy": (adversarial.argmax(1) == y).float().mean(),
        }
        return cross_entropy + config.consistency_weight * term, metrics
