"""Training for certified radii: a 1-Lipschitz backbone and cluster scores that allow for a move within the radius."""

import math

import torch
from torch import Tensor, nn

from corral.certify import normalisation_constant
from corral.errors import UsageError
from corral.losses import annealed_cross_entropy, certified_scores
from corral.models import ClusterHead, Head, LipschitzNet
from corral.training.methods.base import Context, Method, Metrics
from corral.training.recipe_methods import CertifiedConfig


class Certified(Method):
    """Cross-entropy of clean images, the rivals' scores raised by what a move of radius × eps could do to them.

    The radius is in pixel units; in feature space it is that times L, the constant of the channel normalisation, as the
    backbone's own is 1. A feature's logits are then bounds over the ball (`certified_scores`), and no attack is needed.

    The centroids begin as equidistant directions, one a class, each of its clusters a little apart from the others. The
    variance is fixed: it makes `temperature` pixels of radius between two classes worth one unit of a logit.
    """

    def __init__(self, context: Context, config: CertifiedConfig) -> None:
        super().__init__(context)
        self.config = config
        if not isinstance(context.model.backbone, LipschitzNet):
            raise UsageError(
                "method 'certified' needs a backbone that is 1-Lipschitz: set model.backbone to 'lipschitz'"
            )
        classes = context.num_classes
        if context.model.features_dim < classes:
            raise UsageError(
                f"method 'certified' needs as many features as classes, {classes}, found {context.model.features_dim}: "
                "raise model.features"
            )
        self.lipschitz = normalisation_constant(context.model.normalisation.std)
        # Two of the equidistant directions are sqrt(2) apart.
        self.variance = math.sqrt(2) * self.lipschitz * config.temperature
        self.centroids = nn.Parameter(
            torch.zeros(classes * config.clusters, context.model.features_dim, device=context.images.pixels.device)
        )

    @property
    def head(self) -> ClusterHead:
        """The model's cluster head."""
        head = self.model.head
        assert isinstance(head, ClusterHead)
        return head

    def make_head(self) -> Head:
        """A cluster head of the right shape with placeholder centroids."""
        device = self.context.images.pixels.device
        classes = torch.arange(self.context.num_classes, device=device).repeat_interleave(self.config.clusters)
        return ClusterHead(self.centroids.detach(), classes, self.variance, rule=self.config.rule)

    def start(self) -> None:
        """Place the centroids."""
        self.model.head = self.make_head()
        with torch.no_grad():
            self.centroids.copy_(self._placed())
        self.after_epoch()

    def _placed(self) -> Tensor:
        centroids = torch.zeros_like(self.centroids)
        rows = torch.arange(len(centroids), device=centroids.device)
        centroids[rows, self.head.classes] = 1.0
        if self.config.clusters > 1:
            noise = torch.randn(
                centroids.shape, generator=self.context.noise, device=centroids.device, dtype=centroids.dtype
            )
            centroids += self.config.spread * noise / math.sqrt(centroids.shape[1])
        return centroids

    def parameters(self) -> list[tuple[nn.Parameter, float]]:
        """The centroids at their own learning rate."""
        return (
            [(self.centroids, self.config.centroids_learning_rate)] if self.config.centroids_learning_rate > 0 else []
        )

    def loss(self, x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Metrics]:
        """The annealed cross-entropy of the certified scores of the batch."""
        config, head = self.config, self.head
        features = self.model.features(x)
        scores = certified_scores(
            features,
            y,
            self.centroids,
            head.classes,
            self.variance,
            radius=config.radius_ratio * self.context.threat.eps * self.lipschitz,
            rule=config.rule,
            index=head.index,
        )
        losses = annealed_cross_entropy(scores, y, annealing=config.annealing)
        return losses.mean(), {"certified_accuracy": (scores.argmax(1) == y).float().mean()}

    def after_epoch(self) -> dict[str, float]:
        """The centroids as they are now become the head's."""
        self.head.refit(self.centroids.detach(), self.head.classes, self.variance)
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The centroids as parameters."""
        return {"centroids": self.centroids}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back the centroids."""
        if tensors["centroids"].shape != self.centroids.shape:
            raise ValueError(
                f"centroids must be {tuple(self.centroids.shape)}, found {tuple(tensors['centroids'].shape)}"
            )
        with torch.no_grad():
            self.centroids.copy_(tensors["centroids"])
