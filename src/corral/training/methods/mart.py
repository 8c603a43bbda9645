"""MART (Wang et al. 2020): misclassification-aware adversarial training."""

from torch import Tensor

from corral.attacks.centred import TrainingLoss
from corral.attacks.training_loss import FeaturesObjective
from corral.losses import mart_terms, weighted
from corral.models import Classifier
from corral.registry import register
from corral.training.methods.base import Method, MethodOptions, Metrics
from corral.training.recipes.base import InnerAttack, Positive, ThreatConfig


@register
class Mart(Method):
    """BCE(p(x_adv), y) + weight × KL(p(x) || p(x_adv)) (1 - p_y(x)), where x_adv maximises the cross-entropy (Eq. 11).

    BCE is the cross-entropy and -log(1 - max_{k != y} p_k(x_adv)), here in log space, where the released code
    has log(1.0001 - p + 1e-12). Gradients flow through 1 - p_y(x) too, as there. The adversary starts at a uniform
    point of the ball, the code's 0.001 × normal noise away from x.
    """

    name = "mart"
    attacks_logits = True

    class Options(MethodOptions):
        """Boosted cross-entropy plus `consistency_weight` (the paper's lambda) × the misclassified images' KL."""

        consistency_weight: Positive = 5.0
        inner: InnerAttack = InnerAttack(steps=10)

    options: Options

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        x_adv = self.adversarial(self.model, x, y, self.options.inner, "cross_entropy")
        logits, adversarial = self.model(x), self.model(x_adv)
        terms = mart_terms(logits, adversarial, y)
        metrics = {
            **{name: values.mean().detach() for name, values in terms.items()},
            "accuracy": (logits.argmax(1) == y).float().mean(),
            "adversarial_accuracy": (adversarial.argmax(1) == y).float().mean(),
        }
        return weighted(terms, mart_weights(self.options)).mean(), metrics

    @classmethod
    def training_objective(cls, options: Options, threat: ThreatConfig) -> TrainingLoss:
        """BCE(p(x_adv), y) + weight × KL(p(x) || p(x_adv)) (1 - p_y(x))."""

        def values(model: Classifier, clean: Tensor, features: Tensor, y: Tensor) -> Tensor:
            terms = mart_terms(model.logits_from(clean), model.logits_from(features), y)
            return weighted(terms, mart_weights(options))

        settings = (("consistency_weight", options.consistency_weight),)
        return TrainingLoss("mart", FeaturesObjective(values), settings)


def mart_weights(options: Mart.Options) -> dict[str, float]:
    """The weights of `mart_terms`."""
    return {"boosted_cross_entropy": 1.0, "consistency": options.consistency_weight}
