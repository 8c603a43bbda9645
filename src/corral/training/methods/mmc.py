"""Max-Mahalanobis centre training (Pang et al. 2020), natural and adversarial."""

from torch import Tensor

from corral.attacks.centred import TrainingLoss
from corral.attacks.rivals import MmcObjective
from corral.losses import mmc
from corral.registry import register
from corral.training.methods.base import MethodOptions, Metrics
from corral.training.methods.centres import CentreMethod, Centres
from corral.training.recipes.base import InnerAttack, ThreatConfig


@register
class Mmc(CentreMethod):
    """||f - mu_y||^2 / 2 of clean images, or of those in the ball that maximise it."""

    name = "mmc"

    class Options(MethodOptions):
        """Max-Mahalanobis centre loss (Pang et al. 2020, Eq. 8), ||f - mu_y||^2 / 2 against fixed centres.

        `adversarial` takes the loss of the images in the ball that maximise it (the paper's AT + MMC).
        """

        centres: Centres = Centres()
        adversarial: bool = False
        inner: InnerAttack = InnerAttack()

    options: Options

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        centres = self.centres
        if self.options.adversarial:
            x = self.max_loss_attack(x, y, self.options.inner, lambda features, labels: mmc(features, centres, labels))
        features = self.model.features(x)
        loss = mmc(features, centres, y).mean()
        nearest = (features.detach() @ centres.T).argmax(1)
        return loss, {"accuracy": (nearest == y).float().mean()}

    @classmethod
    def training_objective(cls, options: Options, threat: ThreatConfig) -> TrainingLoss:
        return TrainingLoss("mmc", MmcObjective())
