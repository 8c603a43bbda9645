"""A guaranteed upper bound on a network's l2 Lipschitz constant: the product over its layers."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from corral.certify.layer_bounds import LAYERS, BatchNorm, above, linear_bound
from corral.errors import UsageError
from corral.models import MLP, VGG, Classifier, ConvNet, LipschitzNet, ResNet, ResNetCifar, WideResNet
from corral.models.embedded import Embedded
from corral.models.modes import eval_mode
from corral.models.resnet import BasicBlock
from corral.models.resnet_cifar import PaddedBlock
from corral.models.wideresnet import PreActivationBlock


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


def lipschitz_upper(module: nn.Module, image_shape: tuple[int, ...]) -> LipschitzBound:
    """An l2 Lipschitz bound of a classifier's features in pixel units, or of a backbone, in eval mode, for certain.

    The product over the layers of bounds that hold each (`certify.layer_bounds`): Gram iteration for dense layers and
    zero-padded convolutions, BatchNorm folded into the one before it, branch + shortcut for residual blocks, the exact
    norm of averages. It is a bound for the function in exact arithmetic on the weights as stored, in whatever dtype,
    and is computed in float64. For ordinary deep networks it is sound and vacuous. The head does not count.

    A module of any type that has `lipschitz_bound(input_shape) -> float`, with the shape of one example without the
    batch, brings its own guaranteed bound; it is taken as it is. Mode, parameters and gradients stay as they were.

    Args:
        module: a `Classifier`, a backbone of corral, or an nn.Sequential of known layers.
        image_shape: of one input, (channels, H, W), or (values,) for a network of rows.

    Raises:
        UsageError: a module without a bound, by its path and type; an image that does not fit.
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
    own = getattr(module, "lipschitz_bound", None)
    if own is not None:
        bound = float(own(tuple(x.shape[1:])))
        if not bound >= 0:
            raise UsageError(f"{_where(module, path)}: its lipschitz_bound must be at least 0, found {bound}")
        return [LayerBound(path, bound, "by construction")], _run(module, path, x)
    kind = type_before_parametrizations(module)
    if kind in COMPOSITES:
        return COMPOSITES[kind](module, path, x)
    if kind not in LAYERS:
        raise UsageError(
            f"no Lipschitz bound is known for {_where(module, path)}: give it a method "
            "lipschitz_bound(input_shape) -> float that guarantees one"
        )
    out = _run(module, path, x)
    try:
        bound, how = LAYERS[kind](module, x, out)
    except ValueError as error:
        raise ValueError(f"{_where(module, path)}: {error}") from error
    return [LayerBound(path, bound, how)], out


def _chain(parts: Iterable[tuple[str, nn.Module]], path: str, x: Tensor) -> Walked:
    """Modules one after the other, a BatchNorm folded into the dense layer or convolution right before it."""
    layers: list[LayerBound] = []
    rest = list(parts)
    while rest:
        name, part = rest.pop(0)
        full = _join(path, name)
        follower = rest[0][1] if rest else None
        if _plain(part, nn.Linear, nn.Conv2d) and _plain(follower, nn.BatchNorm1d, nn.BatchNorm2d):
            assert isinstance(part, nn.Linear | nn.Conv2d)
            assert isinstance(follower, BatchNorm)
            out = _run(part, full, x)
            try:
                bound, how = linear_bound(part, x, follower)
            except ValueError as error:
                raise ValueError(f"{_where(part, full)}: {error}") from error
            layers.append(LayerBound(full, bound, how))
            x = _run(follower, _join(path, rest.pop(0)[0]), out)
        else:
            found, x = _walk(part, full, x)
            layers += found
    return layers, x


def _plain(module: nn.Module | None, *kinds: type[nn.Module]) -> bool:
    """Whether a module is of exactly one of these types and leaves its bound to us."""
    return (
        module is not None and type_before_parametrizations(module) in kinds and not hasattr(module, "lipschitz_bound")
    )


def _children(module: nn.Module, path: str, x: Tensor) -> Walked:
    return _chain(module.named_children(), path, x)


def _sequential(module: nn.Module, path: str, x: Tensor) -> Walked:
    # named_children would leave out the second place of a module that stands in two.
    return _chain(module._modules.items(), path, x)  # type: ignore[arg-type]


def _classifier(module: nn.Module, path: str, x: Tensor) -> Walked:
    assert isinstance(module, Classifier)
    if module.image_size is not None and tuple(x.shape[2:]) != module.image_size:
        raise UsageError(f"the classifier takes images of {module.image_size}, found image_shape {tuple(x.shape[1:])}")
    return _chain([("normalisation", module.normalisation), ("backbone", module.backbone)], path, x)


def _pooled(module: nn.Module, path: str, x: Tensor) -> Walked:
    """A backbone's modules in order, then the mean over H × W, whose norm is 1 / sqrt(H W)."""
    layers, maps = _children(module, path, x)
    values = maps.shape[2] * maps.shape[3]
    mean = LayerBound(_join(path, "mean"), above(1 / math.sqrt(values)), "exact norm of averaging")
    return [*layers, mean], maps.mean((2, 3))


def _basic_block(module: nn.Module, path: str, x: Tensor) -> Walked:
    assert isinstance(module, BasicBlock)
    names = ("conv1", "bn1", "conv2", "bn2")
    branch, out = _chain([(name, getattr(module, name)) for name in names], path, x)
    shortcut, _ = _walk(module.shortcut, _join(path, "shortcut"), x)
    return [_residual(path, branch, shortcut)], out


def _preactivation_block(module: nn.Module, path: str, x: Tensor) -> Walked:
    assert isinstance(module, PreActivationBlock)
    first, activated = _walk(module.bn1, _join(path, "bn1"), x)
    names = ("conv1", "bn2", "conv2")
    branch, out = _chain([(name, getattr(module, name)) for name in names], path, activated)
    if module.project is None:
        return [_residual(path, first + branch, [])], out
    shortcut, _ = _walk(module.project, _join(path, "project"), activated)
    return [*first, _residual(path, branch, shortcut)], out


def _residual(path: str, branch: list[LayerBound], shortcut: list[LayerBound]) -> LayerBound:
    bounds = _product(branch), _product(shortcut)
    return LayerBound(path, above(sum(bounds)), f"branch {bounds[0]:.6g} + shortcut {bounds[1]:.6g}")


COMPOSITES: dict[type[nn.Module], Callable[[nn.Module, str, Tensor], Walked]] = {
    Classifier: _classifier,
    nn.Sequential: _sequential,
    MLP: _children,
    ConvNet: _children,
    LipschitzNet: _children,
    Embedded: _children,
    VGG: _pooled,
    ResNet: _pooled,
    ResNetCifar: _pooled,
    WideResNet: _pooled,
    BasicBlock: _basic_block,
    PaddedBlock: _basic_block,
    PreActivationBlock: _preactivation_block,
}


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
            f"{_where(module, path)} does not take an input of shape {tuple(x.shape[1:])}: {line}"
        ) from error
    if not isinstance(out, Tensor):
        raise UsageError(f"{_where(module, path)} must return one tensor, found {type(out).__name__}")
    return out


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _where(module: nn.Module, path: str) -> str:
    return f"{path or 'the module'} ({type_before_parametrizations(module).__name__})"
