"""Manifold-aware training (MAT, ICLR 2021 submission): compact features around fixed centres."""

from torch import Tensor

from corral.attacks.centred import TrainingLoss
from corral.attacks.rivals import MatObjective
from corral.losses import bibo_distance, ftc, mat_terms, weighted
from corral.models import FeaturesHead
from corral.training.methods.base import Context, Metrics
from corral.training.methods.centres import CentreMethod
from corral.training.recipe import ThreatConfig
from corral.training.recipe_methods import MatConfig


class Mat(CentreMethod):
    """FTC + a SO + b BIBO (Eq. 9): Eq. 4 and Eq. 6 of clean images, Eq. 8 by PGD on the cosine of features.

    Gradients of BIBO flow to both images' features. With `adversarial`, FTC and SO are those of x_adv, the image in the
    ball that PGD finds of the largest FTC, a second attack beside BIBO's.
    """

    def __init__(self, context: Context, config: MatConfig) -> None:
        super().__init__(context, config.centres)
        self.config = config

    def loss(self, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Metrics]:
        """MAT's total loss of the batch."""
        config, centres = self.config, self.centres
        attacked = None
        if config.bibo_weight > 0:
            through = self.model.with_head(FeaturesHead(self.model.features_dim))
            attacked = self.disagreeing(through, x, y, config.inner, bibo_distance)
        aimed = x
        if config.adversarial:
            aimed = self.farthest(x, y, config.inner, lambda features, labels: ftc(features, centres, labels))
        features = self.model.features(aimed)
        compared = None
        if attacked is not None:
            clean = self.model.features(x) if config.adversarial else features
            compared = clean, self.model.features(attacked)
        terms = mat_terms(features, centres, y, compared)
        metrics = {name: values.mean().detach() for name, values in terms.items()}
        metrics["length"] = features.detach().norm(dim=1).mean()
        weights = {"ftc": 1.0, "so": config.so_weight, "bibo": config.bibo_weight}
        return weighted(terms, weights).mean(), metrics

    @classmethod
    def training_objective(cls, config: MatConfig, threat: ThreatConfig) -> TrainingLoss:
        """FTC + a SO + b (1 - cos(f(x), f(x_adv))), as MAT's own adaptive attack has it (Sec. 4.4)."""
        weights = (("bibo_weight", config.bibo_weight), ("so_weight", config.so_weight))
        return TrainingLoss("mat", MatObjective(config.so_weight, config.bibo_weight), weights)
