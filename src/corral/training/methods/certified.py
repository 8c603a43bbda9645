"""Training for certified radii: a 1-Lipschitz backbone and cluster scores that allow for a move within the radius."""

import torch
from torch import Tensor, nn

from corral.attacks.centred import TrainingLoss
from corral.attacks.training_loss import FeaturesObjective
from corral.certify import normalisation_constant
from corral.errors import UsageError
from corral.losses import annealed_cross_entropy, certified_scores
from corral.models import Classifier, ClusterHead, LipschitzNet
from corral.training.methods.base import Context, Metrics
from corral.training.methods.clusters import ClusterMethod
from corral.training.recipe import ThreatConfig
from corral.training.recipe_methods import CertifiedConfig


class Certified(ClusterMethod):
    """Cross-entropy of clean images, the rivals' scores raised by what a move of radius_ratio × eps could do to them.

    That radius is in pixel units; in feature space it is times L, the constant of the channel normalisation, as the
    backbone's own is 1. The scores are bounds over the ball (`certified_scores`), so that no attack is needed.

    The centroids begin as the k-means centroids of the first features and are then learned, in units of the `scale` at
    which rivals are sqrt(2) apart on average, so that a learning rate means the same for every network. The variance
    stays: it makes `temperature` pixels of radius between two such classes worth one unit of a logit.
    """

    config: CertifiedConfig

    def __init__(self, context: Context, config: CertifiedConfig) -> None:
        super().__init__(context, clusters=config.clusters, rule=config.rule)
        self.config = config
        if not isinstance(context.model.backbone, LipschitzNet):
            raise UsageError(
                "method 'certified' needs a backbone that is 1-Lipschitz: set model.backbone to 'lipschitz'"
            )
        self.lipschitz = normalisation_constant(context.model.normalisation.std)
        device = context.device
        shape = (config.clusters * context.num_classes, context.model.features_dim)
        self.directions = nn.Parameter(torch.zeros(shape, device=device))
        self.scale = torch.ones((), device=device)

    @property
    def variance(self) -> Tensor:
        """sigma^2 of the head."""
        return 2**0.5 * self.scale * self.lipschitz * self.config.temperature

    def start(self) -> None:
        """Fit the clusters and take their centroids as the parameters' first values."""
        super().start()
        centroids, classes = self.head.centroids, self.head.classes
        rivals = classes.unsqueeze(1) != classes
        distances = (centroids.unsqueeze(1) - centroids).norm(dim=2)[rivals]
        self.scale = (distances.mean() / 2**0.5).clamp_min(1e-6)
        with torch.no_grad():
            self.directions.copy_(centroids / self.scale)
        self.after_epoch()

    def parameters(self) -> list[tuple[nn.Parameter, float]]:
        """The centroids at their own learning rate."""
        rate = self.config.centroids_learning_rate
        return [(self.directions, rate)] if rate > 0 else []

    def loss(self, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Metrics]:
        """The annealed cross-entropy of the certified scores of the batch."""
        head = self.head.moved(self.directions * self.scale, self.variance)
        radius = self.config.radius_ratio * self.context.threat.eps * self.lipschitz
        losses, scores = certified_losses(self.config, head, self.model.features(x), y, radius)
        return losses.mean(), {"certified_accuracy": (scores.argmax(1) == y).float().mean()}

    @classmethod
    def training_objective(cls, config: CertifiedConfig, threat: ThreatConfig) -> TrainingLoss:
        """The annealed cross-entropy of the certified scores of the adversarial image, at the radius of training."""

        def values(model: Classifier, clean: Tensor, features: Tensor, y: Tensor) -> Tensor:
            assert isinstance(model.head, ClusterHead)
            radius = config.radius_ratio * threat.eps * normalisation_constant(model.normalisation.std)
            return certified_losses(config, model.head, features, y, radius)[0]

        settings = (("annealing", config.annealing), ("radius", config.radius_ratio * threat.eps))
        return TrainingLoss("certified", FeaturesObjective(values), settings)

    def after_epoch(self) -> dict[str, float]:
        """The centroids as they are now become the head's."""
        self.head.refit(self.directions.detach() * self.scale, self.head.classes, self.variance)
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The clusters' first members and the learned centroids."""
        return super().tensors() | {"directions": self.directions, "scale": self.scale}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back the centroids."""
        super().load(tensors)
        found = tensors["directions"]
        if found.shape != self.directions.shape:
            raise ValueError(f"directions must be {tuple(self.directions.shape)}, found {tuple(found.shape)}")
        self.scale = tensors["scale"].to(self.scale)
        with torch.no_grad():
            self.directions.copy_(found)


def certified_losses(
    config: CertifiedConfig, head: ClusterHead, features: Tensor, y: Tensor, radius: float
) -> tuple[Tensor, Tensor]:
    """(n,) annealed cross-entropies of features (n, d) against a head's clusters, and the (n, C) certified scores.

    Args:
        config: rule and annealing.
        head: with the centroids and the variance.
        features: (n, d).
        y: (n,) labels.
        radius: in feature space.
    """
    scores = certified_scores(
        features, y, head.centroids, head.classes, head.variance, radius=radius, rule=config.rule, index=head.index
    )
    return annealed_cross_entropy(scores, y, annealing=config.annealing), scores
