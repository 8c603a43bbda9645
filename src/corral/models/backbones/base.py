"""What a classifier asks of its backbone, and every backbone by its name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from corral.errors import UsageError
from corral.models.modes import eval_mode
from corral.options import Count, option_names, read_options
from corral.registry import Registry

Shape = tuple[int, int, int]
Builder = Callable[..., nn.Module]
B = TypeVar("B", bound=Builder)

# Parameters of a builder that the images decide; all others are options of the recipe.
FROM_IMAGES = ("shape", "in_channels", "image_size", "in_features")


class Backbone(nn.Module):
    """Images (N, channels, H, W) to features (N, features_dim).

    Where all modules in it are torch's or corral's own and none is a strided 1×1 `nn.Conv2d` (`Pointwise` is the safe
    form), attacks run it with its kernels in the channels-last memory format: it must not count on strides (`flatten`,
    not `view`). A class of your own is never converted.

    Attributes:
        features_dim: d.
        one_lipschitz: whether it is 1-Lipschitz in l2 by construction, whatever its weights, so that training may count
            on it; certificates compute their own bound.
    """

    features_dim: int
    one_lipschitz: ClassVar[bool] = False


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
        """(N, d) features of (N, C, H, W) images."""
        features: Tensor = self.embedding(self.backbone(x))
        return features


def _embedding(*, features: Count | None = None) -> None:
    """The option of every backbone that has no `features` of its own: one more linear layer to so many."""


def _checked(thing: object) -> Builder:
    if not callable(thing):
        raise TypeError("it must be a function of the image shape that returns a torch.nn.Module")
    if not set(inspect.signature(thing).parameters) & set(FROM_IMAGES):
        raise TypeError(f"it must take the image shape, as one of the parameters {', '.join(FROM_IMAGES)}")
    return cast(Builder, thing)


BACKBONES: Registry[Builder] = Registry(
    "backbone", group="corral.backbones", package="corral.models.backbones", check=_checked
)
"""What builds a backbone, by its name."""


def register_backbone(name: str) -> Callable[[B], B]:
    """Make a function or a class a backbone of this name in `[model] backbone`; a decorator.

    It takes the image shape: `shape` (channels, H, W), or `in_channels`, `image_size` (H, W) and `in_features`. Its
    other parameters, with their types and defaults, are the backbone's options in a recipe. What it returns maps
    (N, channels, H, W) images to (N, d) features.
    """

    def add(builder: B) -> B:
        try:
            _checked(builder)
        except TypeError as error:
            raise UsageError(f"backbone {name!r}: {error}") from None
        BACKBONES.add(name, builder)
        return builder

    return add


def backbone_options(name: str, *, code: bool = False) -> tuple[str, ...]:
    """The names of a backbone's options, in the order in which a recipe states them.

    Raises:
        UsageError: an unknown backbone.
    """
    known = option_names(BACKBONES.find(name, code=code), _embedding, given=FROM_IMAGES)
    # Sizes of features before depths, as recipes have always had them: the names of run folders depend on it.
    return tuple(sorted(known, key=lambda option: option not in ("width", "features")))


def read_backbone(name: str, given: Mapping[str, Any], *, code: bool = False) -> dict[str, Any]:
    """All options of a backbone by name, in a recipe's order: those given, and defaults for the others.

    `code`: whether the code of a target may be imported.

    Raises:
        UsageError: an unknown backbone.
        ValueError: an option that it does not read, or an impossible value.
    """
    builder = BACKBONES.find(name, code=code)
    found = read_options(builder, _embedding, given=FROM_IMAGES, values=given, what=f"backbone {name!r}")
    return {option: found[option] for option in backbone_options(name)}


def build_backbone(name: str, shape: Shape, options: Mapping[str, Any]) -> Backbone:
    """A backbone for images (channels, H, W), with first weights from torch's global generator.

    Its `features_dim`, where it does not set it, is found by a forward pass of one black image.

    Raises:
        ValueError: the backbone refuses the options or the shape, or gives no (N, d) features.
    """
    builder = BACKBONES.find(name, code=False)
    channels, height, width = shape
    images = {"shape": tuple(shape), "in_channels": channels, "image_size": (height, width)}
    given = images | {"in_features": channels * height * width} | dict(options)
    own = inspect.signature(builder).parameters
    net = cast(Backbone, builder(**{name: value for name, value in given.items() if name in own}))
    if not hasattr(net, "features_dim"):
        net.features_dim = _features_dim(net, shape)
    features = options.get("features")
    return net if "features" in own or features is None else Embedded(net, features)


def _features_dim(net: nn.Module, shape: Shape) -> int:
    """The length of the features of one black image."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), eval_mode(net):
        tensors = [*net.parameters(), *net.buffers()]
        features = net(torch.zeros(1, *shape, device=tensors[0].device if tensors else None))
    if not isinstance(features, Tensor) or features.dim() != 2:
        raise ValueError(f"it must give (N, d) features, found {tuple(getattr(features, 'shape', ()))}")
    return features.shape[1]
