"""Manifold-aware training (MAT, ICLR 2021 submission): compact features around fixed centres."""

from torch import Tensor

from corral.attacks.centred import TrainingLoss
from corral.attacks.rivals import MatObjective
from corral.losses import bibo_distance, ftc, mat_terms, weighted
from corral.registry import register
from corral.training.methods.base import MethodOptions, Metrics
from corral.training.methods.centres import CentreMethod, Centres
from corral.training.recipes.base import InnerAttack, NotNegative, ThreatConfig


@register
class Mat(CentreMethod):
    """FTC + a SO + b BIBO (Eq. 9): Eq. 4 and Eq. 6 of clean images, Eq. 8 by PGD on the cosine of features.

    Gradients of BIBO flow to both images' features. With `adversarial`, FTC and SO are those of x_adv, the image in the
    ball that PGD finds of the largest FTC, a second attack beside BIBO's.
    """

    name = "mat"

    class Options(MethodOptions):
        """Manifold-aware training (MAT Eq. 9): FTC + `so_weight` × SO + `bibo_weight` × BIBO against fixed centres.

        BIBO's images in the ball are those that `inner` finds; without BIBO there is no attack in training.
        `adversarial` takes FTC and SO of images that maximise FTC instead of clean ones.
        """

        centres: Centres = Centres()
        so_weight: NotNegative = 1.0
        bibo_weight: NotNegative = 1.0
        adversarial: bool = False
        inner: InnerAttack = InnerAttack()

    options: Options

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        options, centres = self.options, self.centres
        attacked = None
        if options.bibo_weight > 0:
            attacked = self.consistency_attack(self.features_model, x, y, options.inner, bibo_distance)
        aimed = x
        if options.adversarial:
            aimed = self.max_loss_attack(x, y, options.inner, lambda features, labels: ftc(features, centres, labels))
        features = self.model.features(aimed)
        compared = None
        if attacked is not None:
            clean = self.model.features(x) if options.adversarial else features
            compared = clean, self.model.features(attacked)
        terms = mat_terms(features, centres, y, compared)
        metrics = {name: values.mean().detach() for name, values in terms.items()}
        metrics["length"] = features.detach().norm(dim=1).mean()
        weights = {"ftc": 1.0, "so": options.so_weight, "bibo": options.bibo_weight}
        return weighted(terms, weights).mean(), metrics

    @classmethod
    def training_objective(cls, options: Options, threat: ThreatConfig) -> TrainingLoss:
        """FTC + a SO + b (1 - cos(f(x), f(x_adv))), as MAT's own adaptive attack has it (Sec. 4.4)."""
        weights = (("bibo_weight", options.bibo_weight), ("so_weight", options.so_weight))
        return TrainingLoss("mat", MatObjective(options.so_weight, options.bibo_weight), weights)
