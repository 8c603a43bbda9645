"""Every backbone by its name: what builds it, and the options that it reads."""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from corral.errors import CorralError, UsageError
from corral.models.backbones.adapted import adapt
from corral.models.backbones.backbone import Backbone, Shape
from corral.models.contract import reason_of
from corral.options import Count, option_names, read_options
from corral.registry import Registry

Builder = Callable[..., nn.Module]
B = TypeVar("B", bound=Builder)

# Parameters of a builder that the images decide; all others are options of the recipe.
FROM_IMAGES = ("shape", "in_channels", "image_size", "in_features")


class Embedded(Backbone):
    """A backbone's features through a linear layer without a rectifier.

    Averages of rectified maps are never negative, so that no two have a negative cosine, as vertices of a simplex do.

    Args:
        backbone: images to (N, features_dim).
        features: d, the number of features after the layer.
    """

    def __init__(self, backbone: Backbone, features: int) -> None:
        super().__init__()
        self.features_dim = features
        self.backbone = backbone
        self.embedding = nn.Linear(backbone.features_dim, features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) features of images x, (N, C, H, W)."""
        features: Tensor = self.embedding(self.backbone(x))
        return features


def _embedding(*, features: Count | None = None) -> None:
    """The option of every backbone that has no `features` of its own: one more linear layer to so many."""


def _layered(*, layer: str | None = None) -> None:
    """The option of every backbone that is not corral's own: the name of the layer whose output are the features."""


class Given:
    """Builds a backbone by copying a module that the user made, weights and all."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> nn.Module:
        """A copy of the module.

        Raises:
            CorralError: it cannot be copied.
        """
        try:
            return copy.deepcopy(self.module)
        except Exception as error:  # foreign code: anything can come
            raise CorralError(
                f"a {type(self.module).__name__} cannot be copied ({reason_of(error)}); give a function that makes it"
            ) from error


def _checked(thing: object) -> Builder:
    if isinstance(thing, nn.Module):
        return Given(thing)
    if not callable(thing):
        raise TypeError("it must be a torch.nn.Module, or a function or class that makes one")
    return cast(Builder, thing)


BACKBONES: Registry[Builder] = Registry(
    "backbone", group="corral.backbones", package="corral.models.backbones", check=_checked
)
"""What builds a backbone, by its name."""


def register_backbone(name: str) -> Callable[[B], B]:
    """Make a function or a class a backbone of this name in `[model] backbone`; a decorator.

    It may take the image shape: `shape` (channels, H, W), or `in_channels`, `image_size` (H, W) and `in_features`. Its
    other parameters, with their types and defaults, are the backbone's options in a recipe. What it returns maps
    (N, channels, H, W) images to (N, d) features, or is a network in which `adapt` finds them.
    """

    def add(builder: B) -> B:
        try:
            _checked(builder)
        except TypeError as error:
            raise UsageError(f"backbone {name!r}: {error}") from None
        BACKBONES.add(name, builder)
        return builder

    return add


def is_own(builder: Builder) -> bool:
    """Whether a backbone is one of corral's."""
    return not isinstance(builder, Given) and getattr(builder, "__module__", "").startswith("corral.")


def _declared(builder: Builder) -> tuple[Callable[..., object], ...]:
    """What declares a backbone's options: the builder, and what every backbone has."""
    return (builder, _embedding) if is_own(builder) else (builder, _embedding, _layered)


def takes_any(name: str) -> bool:
    """Whether a backbone known here passes on options that it does not declare, by `**kwargs`."""
    builder = BACKBONES.find(name, code=False)
    return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(builder).parameters.values())


def backbone_options(name: str, *, code: bool = False) -> tuple[str, ...]:
    """The names of a backbone's options, in the order in which a recipe states them.

    Raises:
        UsageError: an unknown backbone.
    """
    known = option_names(*_declared(BACKBONES.find(name, code=code)), given=FROM_IMAGES)
    # Sizes of features before depths, as recipes have always had them: the names of run folders depend on it.
    return tuple(sorted(known, key=lambda option: option not in ("width", "features")))


def read_backbone(name: str, given: Mapping[str, Any], *, code: bool = False) -> dict[str, Any]:
    """All options of a backbone by name, in a recipe's order: those given, and defaults for the others.

    Of a backbone that is not corral's own, defaults that no file can hold, such as a class, are left out, and `layer`
    where none is named.
    `code`: whether the code of a target may be imported.

    Raises:
        UsageError: an unknown backbone.
        ValueError: an option that it does not read, or an impossible value.
    """
    builder = BACKBONES.find(name, code=code)
    found = read_options(*_declared(builder), given=FROM_IMAGES, values=given, what=f"backbone {name!r}")
    ordered = {option: found[option] for option in backbone_options(name)} | found
    if is_own(builder):
        return ordered
    unnamed = ("layer",) if "layer" not in inspect.signature(builder).parameters and ordered["layer"] is None else ()
    return {key: value for key, value in ordered.items() if (key in given or _plain(value)) and key not in unnamed}


def _plain(value: object) -> bool:
    """Whether a file can hold a default."""
    return value is None or isinstance(value, bool | int | float | str)


def build_backbone(name: str, shape: Shape, options: Mapping[str, Any]) -> Backbone:
    """A backbone for images (channels, H, W), with first weights from torch's global generator.

    Where its features are in a network that is not corral's own, and how many, is found by `adapt`.

    Raises:
        ValueError: the backbone refuses the options or the shape, or gives no (N, d) features.
        CorralError: the code of a backbone that is not corral's own failed.
    """
    builder = BACKBONES.find(name, code=False)
    channels, height, width = shape
    images = {"shape": tuple(shape), "in_channels": channels, "image_size": (height, width)}
    given = images | {"in_features": channels * height * width} | dict(options)
    own = inspect.signature(builder).parameters
    beyond = set(options) - {"features", "layer"} if takes_any(name) else set()
    chosen = {option: value for option, value in given.items() if option in own or option in beyond}
    if is_own(builder):
        net = cast(Backbone, builder(**chosen))
    else:
        net = adapt(_built(name, builder, chosen), shape, None if "layer" in own else options.get("layer"))
    features = options.get("features")
    return net if "features" in own or features is None else Embedded(net, features)


def _built(name: str, builder: Builder, options: Mapping[str, Any]) -> nn.Module:
    """The module that foreign code makes."""
    try:
        made = builder(**options)
    except (CorralError, ValueError, MemoryError):
        raise
    except Exception as error:  # foreign code: anything can come
        raise CorralError(f"backbone {name!r} failed ({reason_of(error)})") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"it must return a torch.nn.Module, found a {type(made).__name__}")
    return made
