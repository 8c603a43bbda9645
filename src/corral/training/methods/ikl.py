"""Adversarial training with the improved KL divergence, IKL (Cui et al. 2024)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from corral.attacks.centred import TrainingLoss
from corral.attacks.training_loss import FeaturesObjective
from corral.losses import ikl_terms, soft_cross_entropy, weighted
from corral.models import Classifier
from corral.registry import register
from corral.training.methods.base import Context, Method, MethodOptions, Metrics
from corral.training.recipes.base import InnerAttack, NotNegative, Positive, ThreatConfig


@register
class ImprovedKL(Method):
    """CE(p(x), y) + a/4 sum_jk w_yj w_yk ((o_j - o_k) - (o'_j - o'_k))^2 - b sum_c p_c(x) log p_c(x_adv), logits o, o'.

    TRADES with its KL divergence taken apart (the paper's Theorem 1) and changed twice: the squared differences of
    pairs of logits move the adversarial logits too, and are weighted by the class, not by the image. w_y is the mean of
    softmax(o / T) over the images of class y, in the training passes of the epoch before; 1 / C in the first epoch. No
    gradient goes to w, nor from the last term to p(x). x_adv maximises that term.

    The released code starts its adversary 0.001 × normal noise away from x, here it is a uniform point of the ball. Its
    weights can be an exponential mean over the epochs, which its runs switch off (m = 1), as here. There a class
    without an image in an epoch has weights of 0 / 0; here it keeps those that it had.
    """

    name = "ikl"
    softens = attacks_logits = True

    class Options(MethodOptions):
        """Cross-entropy of clean images, `mse_weight` × the pairwise squared error, `consistency_weight` × soft CE.

        `mse_weight` is the paper's alpha and the code's beta, `consistency_weight` the paper's beta and the code's
        alpha, `temperature` the code's T, of the class weights.
        """

        mse_weight: NotNegative = 20.0
        consistency_weight: Positive = 4.0
        temperature: Positive = 4.0
        inner: InnerAttack = InnerAttack(steps=10)

    options: Options

    def __init__(self, context: Context, options: Any) -> None:
        super().__init__(context, options)
        classes = context.num_classes
        self.class_weights = torch.full((classes, classes), 1 / classes, device=context.device)
        self.sums = torch.zeros(classes, classes, device=context.device)
        # Of the current batch: (n, C) answers to the clean images, and labels.
        self.answers, self.labels = self.sums[:0], torch.zeros(0, dtype=torch.int64, device=context.device)

    def weights_of(self, logits: Tensor, y: Tensor) -> Tensor:
        """(n, C) weights of the classes in the squared error, of (n,) labels: their class's, whatever the (n, C) logits
        of the clean images are.
        """
        return self.class_weights[y]

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        x_adv = self.consistency_attack(self.model, x, y, self.options.inner, soft_cross_entropy)
        logits, adversarial = self.model(x), self.model(x_adv)
        self.answers, self.labels = image_weights(logits, self.options.temperature), y
        terms = {"cross_entropy": F.cross_entropy(logits, self.targets(y), reduction="none")}
        terms |= ikl_terms(logits, adversarial, self.weights_of(logits, y))
        metrics = {
            **{name: values.mean().detach() for name, values in terms.items()},
            "accuracy": (logits.argmax(1) == y).float().mean(),
            "adversarial_accuracy": (adversarial.argmax(1) == y).float().mean(),
        }
        return weighted(terms, ikl_weights(self.options)).mean(), metrics

    def after_step(self) -> None:
        self.sums.index_add_(0, self.labels, self.answers)

    def after_epoch(self) -> dict[str, float]:
        """Make the means of the epoch's answers the weights of the next."""
        totals = self.sums.sum(1, keepdim=True)
        self.class_weights = torch.where(totals > 0, self.sums / totals.clamp_min(1e-12), self.class_weights)
        self.sums.zero_()
        return {}

    @classmethod
    def training_objective(cls, options: Options, threat: ThreatConfig) -> TrainingLoss:
        """The same terms of the adversarial image, the squared error weighted by the clean image's own softmax(o / T).

        Training's weights are the mean of these over the class, which the model does not keep.
        """

        def values(model: Classifier, clean: Tensor, features: Tensor, y: Tensor) -> Tensor:
            before, logits = model.logits_from(clean), model.logits_from(features)
            terms = {"cross_entropy": F.cross_entropy(logits, y, reduction="none")}
            terms |= ikl_terms(before, logits, image_weights(before, options.temperature))
            return weighted(terms, ikl_weights(options))

        names = ("mse_weight", "consistency_weight", "temperature")
        return TrainingLoss("ikl", FeaturesObjective(values), tuple((name, getattr(options, name)) for name in names))

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"class_weights": self.class_weights}

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        found = tensors["class_weights"]
        if found.shape != self.class_weights.shape or not bool(torch.isfinite(found).all()):
            raise ValueError(f"class_weights must be {tuple(self.class_weights.shape)} finite numbers")
        self.class_weights = found.to(self.class_weights)


def image_weights(logits: Tensor, temperature: float) -> Tensor:
    """(n, C) softmax(o / T) of (n, C) logits, without gradient."""
    return (logits.detach() / temperature).softmax(1)


def ikl_weights(options: ImprovedKL.Options) -> dict[str, float]:
    """The weights of `ikl_terms`, with the cross-entropy."""
    return {
        "cross_entropy": 1.0,
        "pairwise_mse": options.mse_weight,
        "consistency": options.consistency_weight,
    }
