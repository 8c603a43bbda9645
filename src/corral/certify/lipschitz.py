"""A guaranteed upper bound on a network's l2 Lipschitz constant: the product over its layers."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from corral import models
from corral.certify.layer_bounds import LAYERS, above, linear_bound
from corral.errors import UsageError
from corral.models.backbones import Embedded
from corral.models.backbones.resnet import BasicBlock
from corral.models.backbones.resnet_cifar import PaddedBlock
from corral.models.backbones.resnet_imagenet import ImageNetBlock
from corral.models.backbones.wideresnet import PreActivationBlock
from corral.models.modes import eval_mode
from corral.models.plain import join, kind_of, require_plain, require_plain_inside, where
from corral.models.pointwise import Pointwise


@dataclass(frozen=True)
class LayerBound:
    """One factor of the product.

    Attributes:
        name: the module's path; of a residual block, the block's.
        bound: an upper bound on its l2 Lipschitz constant.
        how: what the bound is.
    """

    name: str
    bound: float
    how: str


@dataclass(frozen=True)
class LipschitzBound:
    """A certified upper bound on an l2 Lipschitz constant, with the factors that it is the product of.

    Attributes:
        value: the product, rounded up; infinity if it is past float64.
        layers: in the order of the forward pass.
    """

    value: float
    layers: tuple[LayerBound, ...]


Walked = tuple[list[LayerBound], Tensor]
# Types of corral whose `lipschitz_bound` is inherited. Of any other class only the bound that it defines itself counts.
BOUNDED = (models.HalfAbs, models.Orthogonal, models.SLL, models.Shift, models.SpaceToDepth)


def lipschitz_upper(module: nn.Module, image_shape: tuple[int, ...]) -> LipschitzBound:
    """An l2 Lipschitz bound of a classifier's features in pixel units, or of a backbone, in eval mode, for certain.

    The product over the layers of bounds that hold each (`certify.layer_bounds`): Gram iteration for dense layers and
    zero-padded convolutions, BatchNorm folded into the one before it, branch + shortcut for residual blocks, the exact
    norm of averages. It is a bound for the function in exact arithmetic on the weights as stored, in whatever dtype,
    and is computed in float64. For ordinary deep networks it is sound and vacuous. The head does not count.

    Types are known exactly: a subclass of a known layer or network is not. Each must be all that runs in its place
    (`models.plain`): no forward hooks, no methods replaced, no parametrizations but torch's own.

    A module whose class itself defines `lipschitz_bound(input_shape) -> float`, with the shape of one example without
    the batch, brings its own guaranteed bound, for whatever is inside it; it is taken as it is. A subclass does not
    inherit the guarantee. Mode, parameters and gradients stay as they were.

    Args:
        module: a `Classifier`, a backbone of corral, or an nn.Sequential of known layers.
        image_shape: of one input, (channels, H, W), or (values,) for a network of rows.

    Raises:
        UsageError: a module without a bound, or with something besides it that may run, by its path and type; an image
            that does not fit.
        ValueError: weights that are not finite.
    """
    tensors = (*module.parameters(), *module.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
    x = torch.zeros(1, *image_shape, dtype=like.dtype, device=like.device)
    with eval_mode(module), torch.no_grad():
        layers, _ = _walk(module, "", x)
    return LipschitzBound(value=_product(layers), layers=tuple(layers))


def _walk(module: nn.Module, path: str, x: Tensor) -> Walked:
    """The bounds of a module's layers, and its output on x, of which only the shape counts."""
    kind = kind_of(module)
    if _bounded(module, path):
        require_plain_inside(module, path)
        bound = float(module.lipschitz_bound(tuple(x.shape[1:])))  # type: ignore[operator]
        if not bound >= 0:
            raise UsageError(f"{where(module, path)}: its lipschitz_bound must be at least 0, found {bound}")
        return [LayerBound(path, bound, "by construction")], _run(module, path, x)
    if kind not in LAYERS and kind not in RUNS and kind not in BLOCKS:
        raise UsageError(
            f"no Lipschitz bound is known for {where(module, path)}: give it a method "
            "lipschitz_bound(input_shape) -> float that guarantees one"
        )
    require_plain(module, path)
    if kind in LAYERS:
        out = _run(module, path, x)
        return [_layer(module, path, lambda: LAYERS[kind](module, x, out))], out
    if kind in BLOCKS:
        return _residual_block(module, path, x)
    if isinstance(module, models.Classifier) and module.image_size not in (None, tuple(x.shape[2:])):
        raise UsageError(f"the classifier takes images of {module.image_size}, found image_shape {tuple(x.shape[1:])}")
    # named_children would leave out the second place of a module that stands in two.
    parts = module._modules.items() if kind is nn.Sequential else _named(module, *RUNS[kind])
    layers, out = _chain(parts, path, x)
    if kind in POOLED:
        mean = above(1 / math.sqrt(out.shape[2] * out.shape[3]))
        return [*layers, LayerBound(join(path, "mean"), mean, "exact norm of averaging")], out.mean((2, 3))
    return layers, out


def _layer(module: nn.Module, path: str, bound: Callable[[], tuple[float, str]]) -> LayerBound:
    try:
        return LayerBound(path, *bound())
    except ValueError as error:
        raise ValueError(f"{where(module, path)}: {error}") from error


def _bounded(module: nn.Module, path: str) -> bool:
    """Whether a module brings a bound of its own.

    Raises:
        UsageError: it has one that is another class's, or this one object's, or was parametrized since.
    """
    if type(module) in BOUNDED or "lipschitz_bound" in vars(kind_of(module)):
        return True
    if kind_of(module) in BOUNDED:
        raise UsageError(
            f"{where(module, path)} is parametrized, and its lipschitz_bound does not reckon with that: fix it by "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    if hasattr(module, "lipschitz_bound"):
        raise UsageError(
            f"{where(module, path)} has a lipschitz_bound that its class does not define, and may compute something "
            f"else: define the method in {kind_of(module).__name__} to vouch for it"
        )
    return False


def _named(module: nn.Module, *names: str) -> list[tuple[str, Any]]:
    return [(name, getattr(module, name)) for name in names]


def _chain(parts: Iterable[tuple[str, Any]], path: str, x: Tensor) -> Walked:
    """Modules one after the other, a BatchNorm folded into the dense layer or convolution right before it."""
    layers: list[LayerBound] = []
    rest = [(join(path, name), part) for name, part in parts]
    while rest:
        full, part = rest.pop(0)
        if rest and _folds(part, rest[0][1], x):
            after, follower = rest.pop(0)
            require_plain(part, full)
            require_plain(follower, after)
            out = _run(part, full, x)
            layers.append(_layer(part, full, partial(linear_bound, part, x, follower)))
            x = _run(follower, after, out)
        else:
            found, x = _walk(part, full, x)
            layers += found
    return layers, x


def _folds(part: nn.Module, follower: nn.Module, x: Tensor) -> bool:
    """Whether a BatchNorm scales the rows of the weight before it: of a dense layer on rows, or of a convolution.

    A dense layer on more than rows maps the last dimension, a BatchNorm scales the first.
    """
    dense = kind_of(part) is nn.Linear and x.dim() == 2
    convolution = kind_of(part) in (nn.Conv2d, Pointwise) and x.dim() == 4
    plain = kind_of(follower) in (nn.BatchNorm1d, nn.BatchNorm2d)
    own = hasattr(part, "lipschitz_bound") or hasattr(follower, "lipschitz_bound")
    return (dense or convolution) and plain and not own


def _residual_block(module: nn.Module, path: str, x: Tensor) -> Walked:
    """Branch + shortcut of a basic block, a bottleneck or a pre-activation block, whose first BatchNorm serves both."""
    for name, part in module.named_modules():
        if getattr(part, "inplace", False):  # the other branch would see its input changed
            raise UsageError(
                f"{where(part, join(path, name))} works in place within a residual block: set inplace=False"
            )
    first: list[LayerBound] = []
    shortcut: list[LayerBound] = []
    names: tuple[str, ...] = ("conv1", "bn1", "conv2", "bn2")
    side = "shortcut"
    if isinstance(module, ImageNetBlock):
        names, side = (*names, "conv3", "bn3") if module.bottleneck else names, "downsample"
    if isinstance(module, PreActivationBlock):
        first, x = _walk(module.bn1, join(path, "bn1"), x)
        names, side = ("conv1", "bn2", "conv2"), "project"
    branch, out = _chain(_named(module, *names), path, x)
    if getattr(module, side) is None:
        first, branch = [], first + branch
    else:
        shortcut, _ = _walk(getattr(module, side), join(path, side), x)
    bounds = _product(branch), _product(shortcut)
    how = f"branch {bounds[0]:.6g} + shortcut {bounds[1]:.6g}"
    return [*first, LayerBound(path, above(sum(bounds)), how)], out


BLOCKS = (BasicBlock, PaddedBlock, PreActivationBlock, ImageNetBlock)
# The attributes that a network's `forward` runs in order, whatever else hangs on it; of a Sequential all.
RUNS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Sequential: (),
    models.Classifier: ("normalisation", "backbone"),
    Embedded: ("backbone", "embedding"),
    **dict.fromkeys((models.MLP, models.ConvNet, models.LipschitzNet, models.VGG), ("layers",)),
    **dict.fromkeys((models.ResNet, models.ResNetCifar), ("stem", "blocks")),
    models.WideResNet: ("stem", "blocks", "bn"),
    models.ResNetImageNet: ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
}
# Those that end in the mean over H × W, whose norm is 1 / sqrt(H W).
POOLED = (models.VGG, models.ResNet, models.ResNetCifar, models.ResNetImageNet, models.WideResNet)


def _product(layers: list[LayerBound]) -> float:
    value = 1.0
    for layer in layers:
        if layer.bound != 1:  # the identity's product is exact
            value = above(value * layer.bound)
    return value


def _run(module: nn.Module, path: str, x: Tensor) -> Tensor:
    try:
        out = module(x)
    except (RuntimeError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise UsageError(
            f"{where(module, path)} does not take an input of shape {tuple(x.shape[1:])}: {line}"
        ) from error
    if not isinstance(out, Tensor):
        raise UsageError(f"{where(module, path)} must return one tensor, found {type(out).__name__}")
    if out.dim() == 0 or len(out) != 1:
        raise UsageError(
            f"{where(module, path)} must keep examples apart, one in and one out: found {tuple(out.shape)} of one of "
            f"shape {tuple(x.shape[1:])}"
        )
    return out
