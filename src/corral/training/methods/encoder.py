"""What methods without labels share: an encoder with no head, and neighbours instead of accuracies."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from corral.attacks.centred import TrainingLoss
from corral.data import Images, stratified_subset
from corral.data.views import COLOURS, Augmentation, random_views
from corral.errors import UsageError
from corral.models import FeaturesHead, Head
from corral.models.dual_norm import Branch, make_dual, single_branch, using
from corral.models.projection import Projection
from corral.options import Count as Size
from corral.training.features import extract_features
from corral.training.methods.base import Context, Method, MethodOptions
from corral.training.recipes.base import Config, Positive, ThreatConfig

# Wu et al. 2018's classifier of features: this many neighbours, their votes weighed by exp(cos / tau).
NEIGHBOURS, NEIGHBOUR_TEMPERATURE = 20, 0.07
# Training images that are asked, at most.
MOST_ASKED = 5000

# Two BatchNorms, one of clean and one of adversarial batches, and which of them the saved encoder has; or a single one.
DualNorm = Literal["none", "clean", "adversarial"]


class ViewsConfig(Config):
    """Random views of an image, as `corral.data.views.Augmentation` has them; the defaults are SimCLR's for CIFAR."""

    smallest: Annotated[float, Field(gt=0, le=1)] = 0.08
    jitter: Annotated[float, Field(ge=0, le=2)] = 0.5
    jitter_probability: Annotated[float, Field(ge=0, le=1)] = 0.8
    gray: Annotated[float, Field(ge=0, le=1)] = 0.2
    blur: Annotated[float, Field(ge=0, le=1)] = 0.5
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5

    def augmentation(self) -> Augmentation:
        """The same for `random_views`."""
        return Augmentation(**self.model_dump())


class ProjectionConfig(Config):
    """The network between features and a contrastive loss; `hidden` is as wide as the features where it is not set."""

    hidden: Size | None = None
    outputs: Size = 128


class EncoderMethod(Method):
    """A method that trains features alone: what it saves is an encoder, to which `--fit-heads` fits a head.

    Held-out images are only measured by the labels of their nearest training images; no label plays a part in a loss.
    An option `dual_norm` names the branch of dual BatchNorm that the saved encoder has; "none", or no such option, is a
    single BatchNorm.

    Raises:
        UsageError: two branches of a backbone that has no BatchNorm.
    """

    trains = "encoder"
    needs_labels = False

    def __init__(self, context: Context, options: Any) -> None:
        super().__init__(context, options)
        dual_norm: DualNorm = getattr(options, "dual_norm", "none")
        self.evaluates: Branch | None = None if dual_norm == "none" else dual_norm
        normalised = any(isinstance(module, nn.BatchNorm2d) for module in context.model.modules())
        if self.evaluates is not None and not normalised:
            raise UsageError(
                "method.dual_norm needs a backbone with BatchNorm, such as resnet: choose one, or set it to 'none'"
            )

    @classmethod
    def training_objective(cls, options: Any, threat: ThreatConfig) -> TrainingLoss:
        """None: without a head there is no decision to attack.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"method {options.name!r} trains an encoder without a head, whose loss no attack on a classifier climbs: "
            "fit a head to it first (corral evaluate --fit-heads)"
        )

    def prepare(self) -> None:
        if self.evaluates is not None:
            make_dual(self.model.backbone)

    def make_head(self) -> Head:
        return FeaturesHead(self.model.features_dim)

    def start(self) -> None:
        self.model.head = self.make_head()

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Draw the weights of layers that are made in the block from the run's noise alone."""
        noise = self.context.noise
        seed = int(torch.randint(2**62, (), generator=noise, device=noise.device))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed a GPU's as well
            yield

    def branch(self, name: Branch) -> AbstractContextManager[None]:
        """Send batches through one branch; where there is a single BatchNorm, through that."""
        return nullcontext() if self.evaluates is None else using(self.model, name)

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Hold the model as it is saved to be used."""
        with self.branch(self.evaluates or "clean"):
            yield

    def weights(self) -> dict[str, Tensor]:
        """The encoder of the branch that evaluates, under the names of single layers."""
        with self.evaluated():
            state = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        return state if self.evaluates is None else single_branch(state, self.evaluates)

    def validated(self, images: Images) -> dict[str, float]:
        """The share of held-out images whose nearest training images, by the cosine of features, have their label."""
        bank = self.context.images
        if bank.labels is None or images.labels is None:
            return {}
        if len(bank) > MOST_ASKED:  # folders are in the order of classes: of every class its share
            bank = stratified_subset(bank, MOST_ASKED, seed=0)
        assert bank.labels is not None
        with self.evaluated():
            votes = neighbour_votes(
                extract_features(self.model, images),
                extract_features(self.model, bank),
                bank.labels,
                self.context.num_classes,
            )
        return {"validation_neighbours": float((votes.argmax(1) == images.labels).float().mean())}


class ProjectedOptions(MethodOptions):
    """What all methods with a contrastive loss of projected views have."""

    temperature: Positive = 0.5
    views: ViewsConfig = ViewsConfig()
    projection: ProjectionConfig = ProjectionConfig()


class ProjectedMethod(EncoderMethod):
    """An encoder method whose loss is of a projection of the features."""

    parts: ClassVar[tuple[str, ...]] = ("projection",)

    def __init__(self, context: Context, options: Any) -> None:
        super().__init__(context, options)
        channels = context.images.shape[0]
        if channels not in (1, COLOURS):
            raise UsageError(f"the views of these methods are of gray or colour images, found {channels} channels")
        with self.drawn():
            projection = Projection(self.model.features_dim, **options.projection.model_dump())
        self.projection = projection.to(context.device)

    def learned(self) -> list[nn.Parameter]:
        return list(self.projection.parameters())

    def two_views(self, x: Tensor, augmentation: Augmentation | None = None) -> list[Tensor]:
        """Two random views of every image, by default as the recipe says."""
        augmentation = augmentation or self.options.views.augmentation()
        return [random_views(x, augmentation, generator=self.context.noise) for _ in range(2)]

    @property
    def embedder(self) -> nn.Module:
        """From images to (N, outputs) embeddings, as one module to attack."""
        return nn.Sequential(self.model, self.projection)

    def embedded(self, x: Tensor) -> Tensor:
        """(N, outputs) embeddings of images."""
        found: Tensor = self.embedder(x)
        return found


def require_images(key: str, clusters: int, images: Images) -> None:
    """Refuse, before training, more clusters than there are training images."""
    if clusters > len(images):
        raise UsageError(
            f"{key} {clusters} is more than the {len(images)} training images: ask for fewer clusters or more images "
            "(data.train)"
        )


def neighbour_votes(features: Tensor, bank: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(n, C) votes of the nearest features of a bank (N, d) with labels (N,), each weighed by exp(cos / 0.07)."""
    cosines = functional.normalize(features, dim=1) @ functional.normalize(bank, dim=1).T
    nearest = cosines.topk(min(NEIGHBOURS, len(bank)), 1)
    # The largest cosine is taken off: weights are relative, and none overflows.
    weights = ((nearest.values - nearest.values[:, :1]) / NEIGHBOUR_TEMPERATURE).exp()
    votes = torch.zeros(len(features), classes, device=features.device, dtype=weights.dtype)
    return votes.scatter_add_(1, labels[nearest.indices], weights)
