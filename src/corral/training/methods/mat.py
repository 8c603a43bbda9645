"""Manifold-aware training (MAT, ICLR 2021 submission): compact features around fixed centres."""

from torch import Tensor

from corral.losses import bibo_distance, ftc, so
from corral.models import FeaturesHead
from corral.training.methods.base import Context, Metrics
from corral.training.methods.centres import CentreMethod
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
        total = first = ftc(features, centres, y).mean()
        metrics = {"ftc": first.detach()}
        second = so(features, centres, y).mean()
        metrics["so"] = second.detach()
        metrics["length"] = features.detach().norm(dim=1).mean()
        if config.so_weight > 0:
            total = total + config.so_weight * second
        if attacked is not None:
            clean = self.model.features(x) if config.adversarial else features
            third = bibo_distance(clean, self.model.features(attacked)).mean()
            metrics["bibo"] = third.detach()
            total = total + config.bibo_weight * third
        return total, metrics
