"""What a classifier is made of, as checked, frozen data that JSON can hold."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from corral.errors import UsageError
from corral.models.backbones import BACKBONES, backbone_options, build_backbone, is_own, read_backbone
from corral.models.classifier import Classifier
from corral.models.heads import HEADS, Head
from corral.reading import memory_bytes
from corral.strict import Frozen

Count = Annotated[int, Field(strict=True, ge=1)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
ImageShape = tuple[Count, Count, Count]
# What files of earlier versions say beside the head's name.
OF_HEADS = ("rule", "clusters")


class BackboneSpec(BaseModel):
    """A backbone by name, with its options; those not given are filled with the backbone's defaults.

    Its options are the parameters of what is registered under the name. `features` of a backbone that has no such
    parameter adds a linear layer; without it a backbone ends as published.

    Raises:
        UsageError: an unknown name, or an option that this backbone does not read.
        pydantic.ValidationError: an impossible value.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            return data
        name = data["name"]
        given = {option: value for option, value in data.items() if option != "name" and value is not None}
        unknown = [option for option in given if option not in backbone_options(name)]
        try:
            return {"name": name, **read_backbone(name, given)}
        except ValueError as error:
            if unknown:
                raise UsageError(str(error)) from None
            raise

    def options(self) -> dict[str, Any]:
        """The options that this backbone reads, with their values."""
        return dict(self.model_extra or {})


class ModelSpec(Frozen):
    """Everything that `build_classifier` needs for a classifier of the right shapes.

    Attributes:
        backbone: the backbone and its options.
        image_shape: (channels, H, W).
        num_classes: C.
        mean: per-channel pixel mean, in [0, 1] units.
        std: per-channel pixel standard deviation, positive.
        head: the head's `name` and its options, filled with defaults; a name alone will do. `rule` and `clusters`
            beside it, as in files of earlier versions, are a cluster head's.

    Raises:
        pydantic.ValidationError: a value is impossible; the message names the field.
        UsageError: see `BackboneSpec`.
    """

    backbone: BackboneSpec
    image_shape: ImageShape
    num_classes: Annotated[int, Field(strict=True, ge=2)]
    mean: tuple[Real, ...]
    std: tuple[Annotated[Real, Field(gt=0)], ...]
    head: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        rest = {name: value for name, value in data.items() if name not in OF_HEADS}
        head = rest.get("head")
        if isinstance(head, str):
            head = {"name": head}
        if not isinstance(head, Mapping) or not isinstance(head.get("name"), str):
            return rest
        beside = {name: data[name] for name in OF_HEADS if data.get(name) is not None}
        return {**rest, "head": {**head, **beside}}

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSpec":
        channels = self.image_shape[0]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"mean and std need {channels} numbers, found {len(self.mean)} and {len(self.std)}")
        try:
            filled = fill_head(self.head, self.num_classes)
        except UsageError as error:
            raise ValueError(str(error)) from None
        self.head.update(filled)
        return self

    @property
    def head_class(self) -> type[Head]:
        """The class of the head."""
        return HEADS.find(self.head["name"], code=False)

    def with_head(self, head: Head) -> "ModelSpec":
        """The same with another head's description.

        Raises:
            UsageError: no class is registered that could build such a head again.
        """
        return ModelSpec.model_validate(dict(self) | {"head": head_spec(head, like=self.head["name"])})

    def build_head(self, features: int) -> Head:
        """A head of this description for d features."""
        return self.head_class.from_spec(self.head, features, self.num_classes)


def fill_head(head: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """A head's description with its defaults.

    Raises:
        UsageError: an unknown head.
        ValueError: a description without a name, or impossible options.
    """
    if not isinstance(head.get("name"), str):
        raise ValueError(f"head needs a name, found {head!r}")
    options = {option: value for option, value in head.items() if option != "name" and value is not None}
    return {"name": head["name"], **HEADS.find(head["name"], code=False).resolved(options, num_classes)}


def head_spec(head: Head, *, like: str | None = None) -> dict[str, Any]:
    """A head's description, by a name under which its very class is found.

    `like` is preferred where it names the head's class, such as the recipe's "file.py:MyHead".

    Raises:
        UsageError: no such name, or an option that no file can hold: what cannot be built again should not be trained.
    """
    kind = type(head)
    names = [name for name in (like, getattr(kind, "name", "")) if name]
    found = [name for name in names if _stands_for(name, kind)]
    if not found or not isinstance(head, Head):
        raise UsageError(
            f"a {kind.__name__} is no registered head, so a model with it cannot be read again: give the class a name "
            "of its own and decorate it by @corral.register"
        )
    spec = {**head.spec(), "name": found[0]}
    for option, value in spec.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"head {kind.__name__} cannot be saved: its option {option!r} is of {type(value).__name__}, which JSON "
                f"does not hold ({error}); keep numbers, texts and lists, and tensors as buffers"
            ) from error
    return spec


def _stands_for(name: str, kind: type) -> bool:
    try:
        return HEADS.find(name, code=False) is kind
    except UsageError:
        return False


def build_classifier(spec: ModelSpec) -> Classifier:
    """A classifier of the spec's shapes, ready for training or `load_state_dict`.

    Weights come from torch's global generator: seed it first. A cluster head gets placeholder centroids, to be refitted
    or loaded; loading takes another number of clusters too.

    Raises:
        UsageError: the backbone or the head refuses the options or the image shape.
    """
    try:
        _check_memory(spec)
        backbone = build_backbone(spec.backbone.name, spec.image_shape, spec.backbone.options())
    except ValueError as error:
        raise UsageError(f"backbone {spec.backbone.name!r}: {error}") from error
    try:
        head = spec.build_head(backbone.features_dim)
    except ValueError as error:
        raise UsageError(f"head {spec.head['name']!r}: {error}") from error
    model = Classifier(backbone, head, spec.mean, spec.std, image_size=spec.image_shape[1:])
    model.spec = spec
    return model


def _check_memory(spec: ModelSpec) -> None:
    """Refuse a backbone of corral's own whose weights alone are more than the memory; ValueError."""
    name = spec.backbone.name
    if not is_own(BACKBONES.find(name, code=False)):
        return
    try:
        with torch.device("meta"):  # shapes without memory
            backbone = build_backbone(name, spec.image_shape, spec.backbone.options())
        size = sum(weight.numel() * weight.element_size() for weight in backbone.parameters())
    except (RuntimeError, OverflowError, TypeError):  # sizes beyond what torch can count
        size = 2**63
    if size > memory_bytes():
        raise ValueError(f"its weights have {size:,} bytes, more than this machine's memory; choose smaller options")
