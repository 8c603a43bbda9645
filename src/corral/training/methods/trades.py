"""TRADES (Zhang et al. 2019) and its quick form QTRADES (ClusTR, after Eq. 6), linear head."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from corral.attacks.centred import TrainingLoss
from corral.attacks.training_loss import FeaturesObjective
from corral.losses import kl, soft_cross_entropy, unlogged_kl, weighted
from corral.models import Classifier
from corral.registry import register
from corral.training.methods.base import Method, MethodOptions, Metrics
from corral.training.recipes.base import InnerAttack, Positive, ThreatConfig

CONSISTENCIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": kl,
    "cross_entropy": soft_cross_entropy,
    "unlogged_kl": unlogged_kl,
}


@register
class Trades(Method):
    """CE(p(x), y) + weight × consistency(p(x), p(x_adv)), where x_adv maximises the consistency term.

    With "kl" and 10 steps it is TRADES (its Eq. 5), with "cross_entropy" and one step QTRADES. The adversary starts at
    a uniform point of the ball; TRADES's code starts it 0.001 × normal noise away from x.
    """

    name = "trades"
    softens = mixes = attacks_logits = True

    class Options(MethodOptions):
        """Cross-entropy plus `consistency_weight` × the consistency of p(x) and p(x_adv), linear head.

        TRADES has the consistency "kl", QTRADES "cross_entropy"; "unlogged_kl" is what ClusTR's released code has in
        the place of that cross-entropy.
        """

        consistency: Literal["kl", "cross_entropy", "unlogged_kl"] = "kl"
        consistency_weight: Positive = 6.0
        inner: InnerAttack = InnerAttack(steps=10)

    options: Options

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        options = self.options
        consistency = CONSISTENCIES[options.consistency]
        x_adv = self.consistency_attack(self.model, x, y, options.inner, consistency)
        logits, adversarial = self.model(x), self.model(x_adv)
        terms = trades_terms(options, logits, logits, adversarial, self.targets(y))
        metrics = {
            **{name: values.mean().detach() for name, values in terms.items()},
            "accuracy": (logits.argmax(1) == y).float().mean(),
            "adversarial_accuracy": (adversarial.argmax(1) == y).float().mean(),
        }
        return weighted(terms, trades_weights(options)).mean(), metrics

    @classmethod
    def training_objective(cls, options: Options, threat: ThreatConfig) -> TrainingLoss:
        """CE(p(x_adv), y) + weight × consistency(p(x), p(x_adv))."""

        def values(model: Classifier, clean: Tensor, features: Tensor, y: Tensor) -> Tensor:
            logits = model.logits_from(features)
            terms = trades_terms(options, logits, model.logits_from(clean), logits, y)
            return weighted(terms, trades_weights(options))

        settings = (("consistency", options.consistency), ("consistency_weight", options.consistency_weight))
        return TrainingLoss("trades", FeaturesObjective(values), settings)


@register
class Qtrades(Trades):
    """TRADES's quick form (ClusTR, after Eq. 6): its recipe has cross-entropy in the place of KL, and one step."""

    name = "qtrades"


@register
class AdversarialFineTuning(Trades):
    """TRADES from the encoder that `training.start` names: adversarial full fine-tuning."""

    name = "aff"
    continues_from = "encoder"


def trades_terms(
    options: Trades.Options, labelled: Tensor, clean: Tensor, adversarial: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """(n,) values of each term of the loss, by name, of (n, C) logits and (n,) labels or (n, C) soft ones.

    Cross-entropy is of the logits `labelled`: the clean images' in training, the adversarial ones' in an attack.
    """
    return {
        "cross_entropy": F.cross_entropy(labelled, y, reduction="none"),
        "consistency": CONSISTENCIES[options.consistency](clean, adversarial),
    }


def trades_weights(options: Trades.Options) -> dict[str, float]:
    """The weights of `trades_terms`."""
    return {"cross_entropy": 1.0, "consistency": options.consistency_weight}
