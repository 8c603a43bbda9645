"""What a classifier is made of, as checked, frozen data that JSON can hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from corral.errors import UsageError
from corral.models.backbone import Backbone
from corral.models.classifier import Classifier
from corral.models.convnet import ConvNet
from corral.models.embedded import Embedded
from corral.models.heads import ClusterHead, FeaturesHead, Head, LinearHead
from corral.models.lipschitz_net import LayerKind, LipschitzNet
from corral.models.mlp import MLP
from corral.models.resnet import ResNet
from corral.models.resnet_cifar import ResNetCifar
from corral.models.vgg import VGG
from corral.models.wideresnet import WideResNet

Count = Annotated[int, Field(strict=True, ge=1)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
ImageShape = tuple[Count, Count, Count]


@dataclass(frozen=True)
class BackboneEntry:
    """A row of the registry: how a backbone is built for an image shape, and the options it reads with defaults."""

    build: Callable[..., Backbone]
    options: Mapping[str, Any]


def _embedded(backbone: Backbone, features: int | None) -> Backbone:
    return backbone if features is None else Embedded(backbone, features)


BACKBONES: dict[str, BackboneEntry] = {
    "mlp": BackboneEntry(
        lambda shape, **options: MLP(shape[0] * shape[1] * shape[2], **options),
        {"hidden": (256,), "features": 64, "rectify": True},
    ),
    "convnet": BackboneEntry(
        lambda shape, **options: ConvNet(shape[0], shape[1:], **options),
        {"width": 32, "features": 64, "rectify": True},
    ),
    "resnet": BackboneEntry(
        lambda shape, features, **options: _embedded(ResNet(shape[0], **options), features),
        {"width": 64, "depth": 18, "features": None},
    ),
    "vgg": BackboneEntry(
        lambda shape, features, **options: _embedded(VGG(shape[0], **options), features),
        {"width": 64, "depth": 16, "features": None},
    ),
    "wideresnet": BackboneEntry(
        lambda shape, features, **options: _embedded(WideResNet(shape[0], **options), features),
        {"width": 10, "depth": 28, "features": None},
    ),
    "resnet-cifar": BackboneEntry(
        lambda shape, features, **options: _embedded(ResNetCifar(shape[0], **options), features),
        {"width": 16, "depth": 32, "features": None},
    ),
    "lipschitz": BackboneEntry(
        lambda shape, **options: LipschitzNet(shape[0], shape[1:], **options),
        {"width": 256, "depth": 2, "features": 64, "layer": "dense"},
    ),
}


class BackboneSpec(BaseModel):
    """A backbone by name, with its options; those not given are filled with the backbone's defaults.

    `features` of a resnet, vgg, wideresnet or resnet-cifar adds a linear layer; without it they end as published.

    Raises:
        UsageError: an unknown name, or an option that this backbone does not read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    width: Count | None = None
    depth: Count | None = None
    features: Count | None = None
    hidden: tuple[Count, ...] | None = None
    rectify: Annotated[bool, Field(strict=True)] | None = None
    layer: LayerKind | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            return data
        name = data["name"]
        if name not in BACKBONES:
            raise UsageError(f"unknown backbone {name!r}: choose one of {', '.join(BACKBONES)}")
        reads = BACKBONES[name].options
        for option, value in data.items():
            if option in cls.model_fields and option != "name" and option not in reads and value is not None:
                raise UsageError(f"backbone {name!r} does not read {option!r}: it reads {', '.join(reads)}")
        return {**reads, **{option: value for option, value in data.items() if value is not None}}

    def options(self) -> dict[str, Any]:
        """The options that this backbone reads, with their values."""
        return {option: getattr(self, option) for option in BACKBONES[self.name].options}


class ModelSpec(BaseModel):
    """Everything that `build_classifier` needs for a classifier of the right shapes.

    Args:
        backbone: the backbone and its options.
        image_shape: (channels, H, W).
        num_classes: C.
        mean: per-channel pixel mean, in [0, 1] units.
        std: per-channel pixel standard deviation, positive.
        head: "linear" or "cluster"; "features" of an encoder, which has none.
        rule: of a cluster head, "soft" by default; None for another.
        clusters: M, the number of centroids of a cluster head (C by default); None for another.

    Raises:
        pydantic.ValidationError: a value is impossible; the message names the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: BackboneSpec
    image_shape: ImageShape
    num_classes: Annotated[int, Field(strict=True, ge=2)]
    mean: tuple[Real, ...]
    std: tuple[Annotated[Real, Field(gt=0)], ...]
    head: Literal["linear", "cluster", "features"]
    rule: Literal["soft", "nearest", "fuzzy"] | Count | None = None
    clusters: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("head") != "cluster":
            return data
        given = {name: value for name, value in data.items() if value is not None}
        return {"rule": "soft", "clusters": data.get("num_classes"), **given}

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSpec":
        channels = self.image_shape[0]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"mean and std need {channels} numbers, found {len(self.mean)} and {len(self.std)}")
        if self.head != "cluster":
            if self.rule is not None or self.clusters is not None:
                raise ValueError(
                    f"a {self.head} head has no rule and no clusters: leave them out or take head = cluster"
                )
            return self
        clusters = self.clusters or 0
        if clusters < self.num_classes:
            raise ValueError(f"clusters must be at least one a class, {self.num_classes}, found {clusters}")
        if isinstance(self.rule, int) and self.rule > clusters:
            raise ValueError(f"rule must be at most the {clusters} clusters, found {self.rule}")
        return self


def build_classifier(spec: ModelSpec) -> Classifier:
    """A classifier of the spec's shapes, ready for training or `load_state_dict`.

    Weights come from torch's global generator: seed it first. A cluster head gets placeholder centroids (zeros,
    clusters dealt to classes in turn), to be refitted or loaded; loading takes another number of clusters too.

    Raises:
        UsageError: the backbone refuses the options or the image shape.
    """
    try:
        backbone = BACKBONES[spec.backbone.name].build(spec.image_shape, **spec.backbone.options())
    except ValueError as error:
        raise UsageError(f"backbone {spec.backbone.name!r}: {error}") from error
    features = backbone.features_dim
    head: Head
    if spec.head == "features":
        head = FeaturesHead(features)
    elif spec.rule is None or spec.clusters is None:
        head = LinearHead(features, spec.num_classes)
    else:
        classes = torch.arange(spec.clusters) % spec.num_classes
        head = ClusterHead(torch.zeros(spec.clusters, features), classes, 1.0, rule=spec.rule)
    return Classifier(backbone, head, spec.mean, spec.std, image_size=spec.image_shape[1:])
