"""What the loop asks of a training method."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corral.attacks import pgd
from corral.attacks.centred import CROSS_ENTROPY, TrainingLoss
from corral.attacks.objectives import LogitObjective, ObjectiveName, Released
from corral.attacks.state import attacked
from corral.checkpoints import unprefixed
from corral.data import Images
from corral.data.batches import shuffled
from corral.errors import UsageError
from corral.models import HEADS, Classifier, FeaturesHead, Head
from corral.registry import Registry
from corral.training.features import accuracies
from corral.training.ingredients.perturbation import Adversaries
from corral.training.ingredients.soft_labels import SoftLabels
from corral.training.recipes.base import Config, InnerAttack, ThreatConfig

if TYPE_CHECKING:
    from corral.training.recipes.recipe import Recipe

Metrics = dict[str, Tensor]


@dataclass
class Context:
    """What a run gives its method: the model, the training images and the sources of chance.

    Images may be streamed: they are read by `stored`, `float` and `each`, and know no `pixels`.
    `epochs` counts those of the method, without the warm start's. The images may lie elsewhere than on the `device`
    that trains, where they are too many for it. `head` describes the one that a method has which leaves it free. The
    loop sets `eps_share` and what `soft` says of a batch's labels before each loss, and has `adversaries` show again
    what they were where it takes the loss of a batch twice. `averaged_model` has the averaged weights, where the recipe
    averages them; its head is not fitted to them.
    """

    model: Classifier
    images: Images
    num_classes: int
    threat: ThreatConfig
    batch_size: int
    epochs: int
    device: torch.device
    order: torch.Generator
    noise: torch.Generator
    head: Mapping[str, Any] = field(default_factory=lambda: {"name": "linear"})
    eps_share: float = 1.0
    soft: SoftLabels = field(default_factory=SoftLabels)
    adversaries: Adversaries = field(default_factory=Adversaries)
    averaged_model: Classifier | None = None

    @property
    def training_threat(self) -> ThreatConfig:
        """The threat that the current step trains for: at `eps_share` of eps, which rises in `training.eps_warm_up`."""
        if self.eps_share == 1:
            return self.threat
        return self.threat.model_copy(update={"eps": self.eps_share * self.threat.eps})


class MethodOptions(Config):
    """The `method` table of a recipe: the method's name, and in each method's own class its options."""

    name: str


def _is_method(thing: object) -> "type[Method]":
    """A foreign thing, if a method can be made of it."""
    if not isinstance(thing, type) or not issubclass(thing, Method):
        raise TypeError("expected a subclass of corral.Method")
    if not isinstance(getattr(thing, "name", None), str):
        raise TypeError(f"{thing.__qualname__} has no name, such as name = 'mine'")
    return thing


METHODS: "Registry[type[Method]]" = Registry(
    "method", group="corral.methods", package="corral.training.methods", check=_is_method
)
"""Every training method by name."""


class Method:
    """A training method; the base is one with a linear head and uniform batches.

    A subclass is registered by its `name` with `corral.register`, and declares its options in a nested `Options`.

    Attributes:
        name: what a recipe calls it.
        Options: what a recipe can set of it, defaults and checks.
        needs_labels: whether it trains on labels; one that does not has no accuracy to select or to converge by.
        trains: the whole network ("all"), the "head" on frozen features, or an "encoder" without a head.
        continues_from: what `training.start` must name: None for nothing, "weights" for those of other data, "encoder"
            for features that it goes on from, so that their normalisation comes too.
        parts: names of attributes that are modules (or None) beside the model; checkpoints hold their state.
        replays: how often an epoch shows every image, each time for a forward pass, a backward pass and a step.
        softens: whether the loss takes `targets(y)` for the labels, so that they can be smoothed.
        mixes: whether it does so of images that are mixed of two, too (`data.cutmix`).
        health: what `monitored` found of the last epoch: "failed" where its weights are worth nothing, "doubtful" where
            they may be.
        stops: whether training ends where it has failed, with the weights of the last epoch that was sound.
        attacks_logits: whether its adversary climbs a function of logits and labels, for which `method.inner.objective`
            can choose another.
        follows_average: whether its steps depend on `context.averaged_model`.
    """

    registry: ClassVar[Registry[type["Method"]]] = METHODS
    name: ClassVar[str]
    needs_labels: ClassVar[bool] = True
    trains: ClassVar[Literal["all", "head", "encoder"]] = "all"
    continues_from: ClassVar[Literal["weights", "encoder"] | None] = None
    parts: ClassVar[tuple[str, ...]] = ()
    replays = 1
    softens: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    health: Literal["sound", "doubtful", "failed"] = "sound"
    stops = False
    attacks_logits: ClassVar[bool] = False
    follows_average: ClassVar[bool] = False

    class Options(MethodOptions):
        """None but the name."""

    def __init__(self, context: Context, options: Any) -> None:
        self.context, self.options = context, options

    @classmethod
    def check(cls, recipe: "Recipe") -> None:
        """Refuse a recipe whose other tables the method cannot train by.

        Raises:
            ValueError: what contradicts the method, and what to set instead.
        """

    @classmethod
    def training_objective(cls, options: Any, threat: ThreatConfig) -> TrainingLoss:
        """The loss that the method trains on, of an adversarial image: what an adaptive attack maximises.

        Made of the terms that `loss` is made of. Those that training has of clean images are taken of the adversarial
        one; those that compare hold the clean image's answer fixed; where training has a batch's centroids, the head's
        serve.

        Args:
            options: the recipe's `method` table.
            threat: that the method trains for.

        Raises:
            UsageError: the method has no such loss.
        """
        raise UsageError(
            f"method {options.name!r} says nothing of the loss it trains on, which this protocol attacks: define "
            f"training_objective() on {cls.__name__}, or choose another protocol"
        )

    @classmethod
    def released(cls, options: Any) -> Released:
        """What the released ClusTR code's arithmetic takes from the recipe, where its protocol attacks the method.

        Args:
            options: the method's.
        """
        return Released()

    @property
    def model(self) -> Classifier:
        """The classifier being trained."""
        return self.context.model

    def averaged(self) -> dict[str, nn.Module]:
        """The modules whose numbers `training.weight_averaging` averages, by name: the model and the `parts`."""
        found = {name: part for name in self.parts if (part := getattr(self, name)) is not None}
        return {"model": self.model, **found}

    def fit_average(self) -> None:
        """Fit what follows the features to those of averaged weights, which `averaged()` holds now.

        It leaves the method's state, and the sources of chance, as they are.
        """

    def prepare(self) -> None:
        """Shape the model beside its head as the method trains it, before `start` or before a checkpoint fills it."""

    @property
    def features_model(self) -> Classifier:
        """The model without its head: images to features, for an attack on features."""
        return self.model.with_head(FeaturesHead(self.model.features_dim))

    def make_head(self) -> Head:
        """The head that the method trains, in its final shape; `start` or a checkpoint fills it."""
        kind, context = HEADS.find(self.context.head["name"], code=False), self.context
        if type(self.model.head) is kind:
            return self.model.head
        return kind.from_spec(context.head, self.model.features_dim, context.num_classes).to(context.device)

    def start(self) -> None:
        """Prepare for the first epoch of the method, after the warm start; not called on resuming."""

    def parameters(self) -> list[tuple[nn.Parameter, float]]:
        """Parameters beside the model's trainable ones, each with its own learning rate."""
        return []

    def learned(self) -> list[nn.Parameter]:
        """Parameters beside the model's that share its learning rate."""
        return []

    @property
    def batches_ahead(self) -> bool:
        """Whether `batches` may be asked for its next batches while a step is made: no step changes them, and a batch
        that is out changes nothing else. Images that are streamed are then read ahead. True for the base's `batches`.
        """
        return type(self).batches is Method.batches

    def batches(self) -> Iterator[Tensor]:
        """Indices of the training images, batch by batch, for one epoch."""
        size, order = self.context.batch_size, self.context.order
        yield from shuffled(len(self.context.images), size, generator=order, device=self.context.images.device)

    def loss(self, x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Metrics]:
        """The batch's loss and what to log of it.

        Args:
            x: (n, C, H, W) augmented images in [0, 1].
            y: (n,) labels.
            indices: (n,) their indices in the training set.
        """
        raise NotImplementedError  # abstract

    def after_step(self) -> None:
        """Use the gradients of the batch's backward pass, after the optimiser's step."""

    def after_epoch(self) -> dict[str, float]:
        """Refit what follows the features; returns numbers to log, seconds among them."""
        return {}

    def validated(self, images: Images) -> dict[str, float]:
        """What is measured on held-out images after an epoch, as shares."""
        return accuracies(self.model, images, self.context.threat)

    def monitored(self, held_out: Images | None, *, last: bool) -> dict[str, float]:
        """What is measured after every epoch to set `health`, outside of the run's clock; numbers to log.

        Args:
            held_out: None where the recipe holds none out.
            last: whether training ends with this epoch, unless it failed before.
        """
        return {}

    def weights(self) -> dict[str, Tensor]:
        """The state of the model that is saved to be used, under the names of an ordinary classifier's."""
        return self.model.state_dict()

    def tensors(self) -> dict[str, Tensor]:
        """State beside the model's, for the checkpoint: that of the `parts`."""
        modules = {name: part for name in self.parts if (part := getattr(self, name)) is not None}
        return {f"{name}.{key}": value for name, part in modules.items() for key, value in part.state_dict().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave.

        Raises:
            ValueError, KeyError, RuntimeError: the tensors are not those of this method's state.
        """
        for name in self.parts:
            if (part := getattr(self, name)) is not None:
                part.load_state_dict(unprefixed(tensors, f"{name}."))

    def targets(self, y: Tensor) -> Tensor:
        """What the cross-entropy of the batch is taken of: its labels (n,), or (n, C) soft ones where a recipe asks so.

        `torch.nn.functional.cross_entropy` takes either.

        Args:
            y: (n,) labels of the batch.
        """
        return self.context.soft.of(y, self.context.num_classes)

    def attacked_labels(self, y: Tensor) -> Tensor:
        """What an adversary's cross-entropy is of: the labels (n,), or (n, C) the shares of both in mixed images.

        Args:
            y: (n,) labels of the batch.
        """
        return SoftLabels(mixed=self.context.soft.mixed).of(y, self.context.num_classes)

    def adversarial(
        self, model: nn.Module, x: Tensor, y: Tensor, inner: InnerAttack, objective: ObjectiveName | LogitObjective
    ) -> Tensor:
        """The batch's adversarial images: PGD from a random start, last iterate.

        On the `objective`, or on the one that `inner` names in its place. Of mixed images, cross-entropy is of the
        labels of both.

        Args:
            model: what is attacked.
            x: (n, C, H, W) images of the batch.
            y: (n,) labels.
            inner: steps, step size and mode.
            objective: what is maximised, by name or as a function of (logits, labels).
        """
        targeted = inner.objective == "targeted"
        if inner.objective is not None:
            objective = "cross_entropy" if targeted else inner.objective
        if targeted:
            y = other_classes(y, self.context.num_classes, self.context.noise)
        elif objective == "cross_entropy" and self.context.soft.mixed is not None:
            objective = partial(_entropy_of, self.attacked_labels(y))
        threat = self.context.training_threat
        return self.context.adversaries.once(
            lambda: pgd(
                model,
                x,
                y,
                eps=threat.eps,
                norm=threat.norm,
                steps=inner.steps,
                step_size=max(inner.step_ratio * threat.eps, 1e-12),
                objective=objective,
                generator=self.context.noise,
                keep="last",
                mode=inner.mode,
                targeted=targeted,
            )
        )

    def consistency_attack(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        inner: InnerAttack,
        disagreement: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """The batch's images in the eps-ball whose outputs disagree most with those of the clean images.

        `disagreement` gives (n,) values to maximise of the (n, k) outputs of clean images, held fixed, and of
        adversarial ones. Labels play no part.

        Args:
            model: what is attacked.
            x: (n, C, H, W) images of the batch.
            y: (n,) labels.
            inner: steps, step size and mode.
        """
        with attacked(model, inner.mode), torch.no_grad():
            clean = model(x)
        return self.adversarial(model, x, y, inner, lambda outputs, _: disagreement(clean, outputs))


def other_classes(y: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """(n,) classes, each uniform among those that are not the label's."""
    drawn = torch.randint(classes - 1, (len(y),), generator=generator, device=generator.device).to(y.device)
    return drawn + (drawn >= y).long()


def _entropy_of(targets: Tensor, logits: Tensor, _: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def read_indices(tensors: Mapping[str, Tensor], name: str, like: Tensor, count: int, what: str = "clusters") -> Tensor:
    """Indices in a checkpoint, of the shape and on the device of others.

    Raises:
        ValueError: another shape or type, or an index outside [0, count).
    """
    found = tensors[name]
    whole = found.dtype == torch.int64 and found.shape == like.shape
    if not whole or int(found.min()) < 0 or int(found.max()) >= count:
        raise ValueError(f"{name} must be {tuple(like.shape)} {what} in [0, {count})")
    return found.to(like.device)


class LabelMethod(Method):
    """A method whose loss is the cross-entropy of the logits of the images that it trains on, whichever these are."""

    @classmethod
    def training_objective(cls, options: Any, threat: ThreatConfig) -> TrainingLoss:
        """The cross-entropy of the adversarial image's logits."""
        return CROSS_ENTROPY


def method_class(options: MethodOptions) -> type[Method]:
    """The class of the method that a recipe's `method` table describes.

    Raises:
        UsageError: a method that is not known here, or one whose options are others.
    """
    found = METHODS.find(options.name, code=False)
    if not isinstance(options, found.Options):
        raise UsageError(f"method {options.name!r} has other options than {type(options).__qualname__}")
    return found
