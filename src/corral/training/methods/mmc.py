"""Max-Mahalanobis centre training (Pang et al. 2020), natural and adversarial."""

from torch import Tensor

from corral.attacks.centred import TrainingLoss
from corral.attacks.rivals import MmcObjective
from corral.losses import mmc
from corral.training.methods.base import Context, Metrics
from corral.training.methods.centres import CentreMethod
from corral.training.recipe import ThreatConfig
from corral.training.recipe_methods import MmcConfig


class Mmc(CentreMethod):
    """||f - mu_y||^2 / 2 of clean images, or of those in the ball that maximise it."""

    def __init__(self, context: Context, config: MmcConfig) -> None:
        super().__init__(context, config.centres)
        self.config = config

    def loss(self, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Metrics]:
        """The batch's mean centre loss."""
        centres = self.centres
        if self.config.adversarial:
            x = self.farthest(x, y, self.config.inner, lambda features, labels: mmc(features, centres, labels))
        features = self.model.features(x)
        loss = mmc(features, centres, y).mean()
        nearest = (features.detach() @ centres.T).argmax(1)
        return loss, {"accuracy": (nearest == y).float().mean()}

    @classmethod
    def training_objective(cls, config: MmcConfig, threat: ThreatConfig) -> TrainingLoss:
        """The centre loss of the adversarial image."""
        return TrainingLoss("mmc", MmcObjective())
