"""TRADES (Zhang et al. 2019) and its quick form QTRADES (ClusTR, after Eq. 6), linear head."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from corral.attacks.centred import TrainingLoss
from corral.attacks.training_loss import FeaturesObjective
from corral.losses import kl, soft_cross_entropy, unlogged_kl, weighted
from corral.models import Classifier
from corral.training.methods.base import Context, Method, Metrics
from corral.training.recipe import ThreatConfig
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
        terms = trades_terms(config, logits, logits, adversarial, y)
        metrics = {
            **{name: values.mean().detach() for name, values in terms.items()},
            "accuracy": (logits.argmax(1) == y).float().mean(),
            "adversarial_accuracy": (adversarial.argmax(1) == y).float().mean(),
        }
        return weighted(terms, trades_weights(config)).mean(), metrics

    @classmethod
    def training_objective(cls, config: TradesConfig, threat: ThreatConfig) -> TrainingLoss:
        """CE(p(x_adv), y) + weight × consistency(p(x), p(x_adv))."""

        def values(model: Classifier, clean: Tensor, features: Tensor, y: Tensor) -> Tensor:
            logits = model.logits_from(features)
            terms = trades_terms(config, logits, model.logits_from(clean), logits, y)
            return weighted(terms, trades_weights(config))

        settings = (("consistency", config.consistency), ("consistency_weight", config.consistency_weight))
        return TrainingLoss("trades", FeaturesObjective(values), settings)


def trades_terms(
    config: TradesConfig, labelled: Tensor, clean: Tensor, adversarial: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """(n,) values of each term of the loss, by name.

    Args:
        config: which consistency.
        labelled: (n, C) logits that should say the label: the clean images' in training, the adversarial ones' in an
            attack.
        clean: (n, C) logits of the clean images.
        adversarial: (n, C) logits of the adversarial images.
        y: (n,) labels.
    """
    return {
        "cross_entropy": F.cross_entropy(labelled, y, reduction="none"),
        "consistency": CONSISTENCIES[config.consistency](clean, adversarial),
    }


def trades_weights(config: TradesConfig) -> dict[str, float]:
    """The weights of `trades_terms`."""
    return {"cross_entropy": 1.0, "consistency": config.consistency_weight}
