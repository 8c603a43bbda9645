"""Adversarial training on centroids of the whole training set: running means of clean features, drawn to a simplex."""

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from corral.attacks.centred import CROSS_ENTROPY, TrainingLoss
from corral.attacks.training_loss import FeaturesObjective
from corral.distributed import ranks
from corral.errors import UsageError
from corral.geometry import fitted_simplex
from corral.losses import kl, nuclear_norm, weighted
from corral.models import Classifier, ClusterHead
from corral.registry import register
from corral.training.features import features_block, require_finite
from corral.training.methods.base import Context, MethodOptions, Metrics
from corral.training.methods.clusters import ClusterMethod, cluster_head, labels_of
from corral.training.recipes.base import InnerAttack, NotNegative, Positive, ThreatConfig

# Class means that lie on one point leave no radius to divide by.
LEAST_RADIUS = 1e-6


@register
class GlobalCentroids(ClusterMethod):
    """Cross-entropy of adversarial features against centroids that no batch decides.

    c_y is the exponential mean of class y's clean features, of the averaged network where `training.weight_averaging`
    is on and of the network in training elsewhere; c_bar is the mean of all c_y, and r and R turn the regular simplex M
    nearest to them (`geometry.fitted_simplex`). The centroids are

        mu = (1 - l) c + l (c_bar + r R M),    l = `shrinkage`,

    and the variance is r^2 / s: a logit does not change when all features are moved or scaled; s is the inverse of the
    head's temperature. The gradient sees moves too: c_y has the value of the running mean and the gradient of the mean
    of the batch's clean images, with a `length` c_bar alone. (Without it features run away from centroids that follow.)
    R has none. The adversary is PGD on the same head. Of a network that is measured or saved, the c_y are the exact
    means of its features of the training images.
    """

    name = "global-centroids"
    softens = attacks_logits = follows_average = True

    class Options(MethodOptions):
        """Adversarial training on running centroids of clean features, shrunk toward a regular simplex.

        A step moves a class's mean by 1 - `momentum` of the way to that of its images in the batch. The centroids go to
        the distance `length` from c_bar, to c_bar + length (mu - c_bar) / r, and the variance is length^2 / s: the
        features' own scale then decides how far logits are apart, as with a linear head. 0 leaves them at mu.

        "twins" gives each class a second centroid, the running mean of its *adversarial* features; their scores add
        (log-sum-exp). With a `consistency_weight` the loss is TRADES's: cross-entropy of clean images and
        KL(p(x), p(x_adv)), which the adversary climbs. The sharpness s is `sharpness`; with a
        `temperature_learning_rate` it is trained from there. `nuclear_weight` adds the
        nuclear norm of the batch's residuals (f(x_adv) - mu_y) / r, divided by its images: NuAT's term with the class's
        clean centroid in the place of the clean image's answer.
        """

        length: NotNegative = 1.0
        shrinkage: Annotated[float, Field(ge=0, le=1)] = 0.5
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
        clusters: Literal["clean", "twins"] = "clean"
        sharpness: Positive = 4.0
        temperature_learning_rate: NotNegative = 0.0
        consistency_weight: NotNegative = 0.0
        nuclear_weight: NotNegative = 0.0
        inner: InnerAttack = InnerAttack()

    options: Options
    state: ClassVar[tuple[str, ...]] = ("clean_means", "adversarial_means")

    def __init__(self, context: Context, options: Options) -> None:
        twins = options.clusters == "twins"
        super().__init__(
            context, options, clusters=2 if twins else 1, rule="soft" if twins else "nearest",
            temperature=1 / options.sharpness,
        )  # fmt: skip
        shape = (context.num_classes, context.model.features_dim)
        self.clean_means = torch.zeros(shape, device=context.device)
        self.adversarial_means = torch.zeros(shape, device=context.device)
        self.seen: tuple[Tensor, Tensor, Tensor] | None = None
        self.turned = self.clean_means, self.adversarial_means
        if context.model.features_dim < context.num_classes - 1:
            needed, found = context.num_classes - 1, context.model.features_dim
            raise UsageError(
                f"method 'global-centroids' needs {needed} features or more for {context.num_classes} classes, "
                f"found {found}: set model.features or model.width"
            )

    def make_head(self) -> ClusterHead:
        head = super().make_head()
        head.log_temperature.requires_grad_(self.options.temperature_learning_rate > 0)
        return head

    def parameters(self) -> list[tuple[nn.Parameter, float]]:
        rate = self.options.temperature_learning_rate
        return [(self.head.log_temperature, rate)] if rate > 0 else []

    def start(self) -> None:
        self.model.head = self.make_head()
        self.clean_means = self.adversarial_means = self._means()
        self._place(self.clean_means, self.adversarial_means)

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        options, consistent = self.options, self.options.consistency_weight > 0
        if consistent:
            x_adv = self.consistency_attack(self.model, x, y, options.inner, kl)
        else:
            x_adv = self.adversarial(self.model, x, y, options.inner, "cross_entropy")
        clean, features = self.model.features(x), self.model.features(x_adv)
        averaged = self.context.averaged_model
        followed = clean.detach() if averaged is None else self._followed(averaged, x)
        moved = features.detach() if averaged is None or self.clusters == 1 else self._followed(averaged, x_adv)
        self.seen = followed, moved, y
        head = self._with_gradient(clean, features, y)
        logits, of_clean = head(features), head(clean) if consistent else None
        terms = {"cross_entropy": F.cross_entropy(logits, self.targets(y), reduction="none")}
        if of_clean is not None:
            terms["cross_entropy"] = F.cross_entropy(of_clean, self.targets(y), reduction="none")
            terms["consistency"] = kl(of_clean, logits)
        metrics = {"adversarial_accuracy": (logits.argmax(1) == y).float().mean()}
        total = weighted(terms, self._weights(options)).mean()
        if options.nuclear_weight > 0:
            residuals = _residuals(head, features, y)
            total = total + options.nuclear_weight * nuclear_norm(residuals) / len(y)
        return total, metrics

    @staticmethod
    def _weights(options: Options) -> dict[str, float]:
        return {"cross_entropy": 1.0, "consistency": options.consistency_weight}

    @classmethod
    def training_objective(cls, options: Options, threat: ThreatConfig) -> TrainingLoss:
        """The cross-entropy of the head's logits, and the consistency with the clean image's where it is trained.

        The nuclear norm is that of a batch of the one image: its residual's length.
        """
        if options.consistency_weight == 0 and options.nuclear_weight == 0:
            return CROSS_ENTROPY

        def values(model: Classifier, clean: Tensor, features: Tensor, y: Tensor) -> Tensor:
            logits = model.logits_from(features)
            terms = {"cross_entropy": F.cross_entropy(logits, y, reduction="none")}
            if options.consistency_weight > 0:
                terms["consistency"] = kl(model.logits_from(clean), logits)
            lengths = _residuals(cluster_head(model), features, y).norm(dim=1)
            total: Tensor = weighted(terms, cls._weights(options)) + options.nuclear_weight * lengths
            return total

        settings = (
            ("consistency_weight", options.consistency_weight),
            ("nuclear_weight", options.nuclear_weight),
        )
        return TrainingLoss("global_centroids", FeaturesObjective(values), settings)

    @staticmethod
    def _followed(averaged: Classifier, x: Tensor) -> Tensor:
        """(n, d) features of the averaged network, which the means follow."""
        averaged.eval()
        with torch.no_grad():
            found: Tensor = averaged.features(x).float()
            return found

    def after_step(self) -> None:
        assert self.seen is not None
        clean, adversarial, y = self.seen
        self.clean_means = self._moved(self.clean_means, clean, y)
        self.adversarial_means = self._moved(self.adversarial_means, adversarial, y)
        self._place(self.clean_means, self.adversarial_means)

    def _moved(self, means: Tensor, features: Tensor, y: Tensor) -> Tensor:
        """(C, d) means a step later; a class without an image in the batch keeps its own."""
        found, there = _class_means(features.float(), y, len(means))
        return torch.where(there, torch.lerp(found, means, self.options.momentum), means)

    def _place(self, clean: Tensor, adversarial: Tensor) -> None:
        """Put the head's centroids where (C, d) means say, in place: the device is not waited for."""
        self.turned = turned(clean), turned(adversarial)
        centroids, radius = self._centroids(clean, adversarial)
        self.head.centroids.copy_(centroids)
        self.head.variance.copy_(radius.square())

    def _centroids(self, clean: Tensor, adversarial: Tensor) -> tuple[Tensor, Tensor]:
        """(M, d) centroids of (C, d) means by the turns that were found last, and r, with gradient to the means."""
        length = self.options.length
        centroids, middle, radius = self._shrunk(clean, self.turned[0])
        if self.clusters == 2:
            second = self._shrunk(adversarial, self.turned[1])[0]
            centroids = torch.stack([centroids, second], 1).flatten(0, 1)
        if length == 0:
            return centroids, radius
        # At the start r is small, and the gradient of a division by it would blow the features up.
        directions = ((centroids - middle) / radius).detach()
        return middle + length * directions, torch.full_like(radius, length)

    def _shrunk(self, means: Tensor, vertices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1 - l) c + l (c_bar + r R M), c_bar and r, of means c and turned unit vertices R M."""
        middle = means.mean(0)
        radius = ((means - middle) * vertices).sum().clamp_min(LEAST_RADIUS * len(means)) / len(means)
        return torch.lerp(means, middle + radius * vertices, self.options.shrinkage), middle, radius

    def _with_gradient(self, clean: Tensor, features: Tensor, y: Tensor) -> ClusterHead:
        """The head as it is, whose centroids have the gradient of the means of the batch's features."""
        both = []
        for means, seen in ((self.clean_means, clean), (self.adversarial_means, features)):
            found, there = _class_means(seen.float(), y, len(means))
            both.append(means + torch.where(there, found - found.detach(), torch.zeros_like(found)))
        centroids, radius = self._centroids(*both)
        return self.head.with_centroids(centroids, radius.square())

    def _means(self) -> Tensor:
        """(C, d) means of the clean features of all training images, in eval mode and without augmentation."""
        features = features_block(self.model, self.context.images)
        ranks.agreed(lambda: require_finite(features, "the network", remedy=self.remedy))
        labels = labels_of(self.context)
        own = labels.tensor_split(ranks.size())[ranks.rank()]
        sums = ranks.summed(features.new_zeros(self.clean_means.shape).index_add_(0, own, features))
        return sums / torch.bincount(labels, minlength=len(sums)).unsqueeze(1)

    def after_epoch(self) -> dict[str, float]:
        if self.context.averaged_model is None:
            self.clean_means = self._means()
            self._place(self.clean_means, self.adversarial_means)
        return {"radius": float(self.head.variance.sqrt()), "sharpness": float(1 / self.head.temperature.detach())}

    def fit_average(self) -> None:
        """Exact class means of the averaged network; twins keep the running mean of adversarial features."""
        own = self.turned
        self._place(self._means(), self.adversarial_means)
        self.turned = own

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {name: getattr(self, name) for name in self.state}

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        for name in self.state:
            found, own = tensors[name], getattr(self, name)
            if found.shape != own.shape:
                raise ValueError(f"{name} must be {tuple(own.shape)}, found {tuple(found.shape)}")
            setattr(self, name, found.to(own))
        self.turned = turned(self.clean_means), turned(self.adversarial_means)


def _residuals(head: ClusterHead, features: Tensor, y: Tensor) -> Tensor:
    """(n, d) features less the first centroid of their class, in units of the head's radius r."""
    own = head.centroids[head.index[y, 0]]
    return (features.float() - own) / head.variance.sqrt()


def _class_means(features: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """(C, d) means of (n, d) features by their labels, and (C, 1) whether a class is among them."""
    sums = features.new_zeros(classes, features.shape[1]).index_add(0, y, features)
    counts = torch.bincount(y, minlength=classes).unsqueeze(1)
    return sums / counts.clamp_min(1), counts > 0


def turned(means: Tensor) -> Tensor:
    """(C, d) unit vertices R M of the regular simplex nearest to (C, d) means, around 0."""
    vertices, radius = fitted_simplex(means)
    return (vertices - means.mean(0)) / radius.clamp_min(LEAST_RADIUS)
