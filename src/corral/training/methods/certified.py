"""Training for certified radii: a 1-Lipschitz backbone and cluster scores that allow for a move within the radius."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from corral.attacks.centred import TrainingLoss
from corral.attacks.training_loss import FeaturesObjective
from corral.certify import normalisation_constant
from corral.errors import UsageError
from corral.losses import annealed_cross_entropy, certified_scores
from corral.models import Classifier, ClusterHead
from corral.registry import register
from corral.training.methods.base import Context, MethodOptions, Metrics
from corral.training.methods.clusters import ClusterMethod, cluster_head
from corral.training.recipes.base import Count, NotNegative, Positive, ThreatConfig

if TYPE_CHECKING:
    from corral.training.recipes.recipe import Recipe


@register
class Certified(ClusterMethod):
    """Cross-entropy of clean images, the rivals' scores raised by what a move of radius_ratio × eps could do to them.

    That radius is in pixel units; in feature space it is times L, the constant of the channel normalisation, as the
    backbone's own is 1. The scores are bounds over the ball (`certified_scores`), so that no attack is needed.

    The centroids begin as the k-means centroids of the first features and are then learned, in units of the `scale` at
    which rivals are sqrt(2) apart on average, so that a learning rate means the same for every network. The variance
    stays: it makes `temperature` pixels of radius between two such classes worth one unit of a logit.
    """

    name = "certified"

    class Options(MethodOptions):
        """Cross-entropy of clean images over bounds on the worst scores within `radius_ratio` × eps in l2.

        `temperature` is the radius in pixel units that one unit of a logit stands for, and `annealing` the power of
        logit annealing (Lai et al. 2025; 0: cross-entropy). The centroids begin as k-means finds them and learn at
        `centroids_learning_rate` (0 fixes them). `rule` is that of the radius, so that the bounds are of it too.
        """

        clusters: Count = 1
        rule: Literal["soft", "nearest"] = "soft"
        radius_ratio: NotNegative = 1.0
        temperature: Positive = 0.25
        annealing: NotNegative = 0.0
        centroids_learning_rate: NotNegative = 3e-3

    options: Options

    @classmethod
    def check(cls, recipe: "Recipe") -> None:
        if recipe.threat.norm != "L2":
            raise ValueError("method 'certified' trains for l2 radii: set threat.norm to 'L2' and threat.eps in l2")

    def __init__(self, context: Context, options: Options) -> None:
        super().__init__(context, options, clusters=options.clusters, rule=options.rule)
        if not getattr(context.model.backbone, "one_lipschitz", False):
            raise UsageError(
                "method 'certified' needs a backbone that is 1-Lipschitz: set model.backbone to 'lipschitz', or "
                "one_lipschitz = True on a class of your own"
            )
        self.lipschitz = normalisation_constant(context.model.normalisation.std)
        device = context.device
        shape = (options.clusters * context.num_classes, context.model.features_dim)
        self.directions = nn.Parameter(torch.zeros(shape, device=device))
        self.scale = torch.ones((), device=device)

    @property
    def variance(self) -> Tensor:
        """sigma^2 of the head."""
        return 2**0.5 * self.scale * self.lipschitz * self.options.temperature

    def start(self) -> None:
        super().start()
        centroids, classes = self.head.centroids, self.head.classes
        rivals = classes.unsqueeze(1) != classes
        distances = (centroids.unsqueeze(1) - centroids).norm(dim=2)[rivals]
        self.scale = (distances.mean() / 2**0.5).clamp_min(1e-6)
        with torch.no_grad():
            self.directions.copy_(centroids / self.scale)
        self.after_epoch()

    def parameters(self) -> list[tuple[nn.Parameter, float]]:
        learning_rate = self.options.centroids_learning_rate
        return [(self.directions, learning_rate)] if learning_rate > 0 else []

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        head = self.head.with_centroids(self.directions * self.scale, self.variance)
        radius = self.options.radius_ratio * self.context.training_threat.eps * self.lipschitz
        losses, scores = certified_losses(self.options, head, self.model.features(x), y, radius)
        return losses.mean(), {"certified_accuracy": (scores.argmax(1) == y).float().mean()}

    @classmethod
    def training_objective(cls, options: Options, threat: ThreatConfig) -> TrainingLoss:
        """The annealed cross-entropy of the certified scores of the adversarial image, at the radius of training."""

        def values(model: Classifier, clean: Tensor, features: Tensor, y: Tensor) -> Tensor:
            radius = options.radius_ratio * threat.eps * normalisation_constant(model.normalisation.std)
            return certified_losses(options, cluster_head(model), features, y, radius)[0]

        settings = (("annealing", options.annealing), ("radius", options.radius_ratio * threat.eps))
        return TrainingLoss("certified", FeaturesObjective(values), settings)

    def after_epoch(self) -> dict[str, float]:
        self.head.refit(self.directions.detach() * self.scale, self.head.classes, self.variance)
        return {}

    def averaged(self) -> dict[str, nn.Module]:
        return super().averaged() | {"directions": nn.ParameterList([self.directions])}

    def fit_average(self) -> None:
        self.after_epoch()

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"directions": self.directions, "scale": self.scale}

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        found = tensors["directions"]
        if found.shape != self.directions.shape:
            raise ValueError(f"directions must be {tuple(self.directions.shape)}, found {tuple(found.shape)}")
        self.scale = tensors["scale"].to(self.scale)
        with torch.no_grad():
            self.directions.copy_(found)


def certified_losses(
    options: Certified.Options, head: ClusterHead, features: Tensor, y: Tensor, radius: float
) -> tuple[Tensor, Tensor]:
    """(n,) annealed cross-entropies of features (n, d) against a head's clusters, and the (n, C) certified scores.

    The `radius` is in feature space.
    """
    scores = certified_scores(
        features, y, head.centroids, head.classes, head.variance, radius=radius, rule=options.rule, index=head.index
    )
    return annealed_cross_entropy(scores, y, annealing=options.annealing), scores
