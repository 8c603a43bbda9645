"""A guaranteed upper bound on a network's l2 Lipschitz constant: the product over its layers."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corral.certify.layer_bounds import LAYERS, BatchNorm, above, linear_bound
from corral.errors import UsageError
from corral.models import (
    MLP,
    SLL,
    VGG,
    Classifier,
    ConvNet,
    HalfAbs,
    LipschitzNet,
    Orthogonal,
    ResNet,
    ResNetCifar,
    Shift,
    SpaceToDepth,
    WideResNet,
)
from corral.models.backbones import Embedded
from corral.models.backbones.resnet import BasicBlock
from corral.models.backbones.resnet_cifar import PaddedBlock
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
BOUNDED = (HalfAbs, Orthogonal, SLL, Shift, SpaceToDepth)


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
    if kind in COMPOSITES:
        require_plain(module, path)
        return COMPOSITES[kind](module, path, x)
    if kind not in LAYERS:
        raise UsageError(
            f"no Lipschitz bound is known for {where(module, path)}: give it a method "
            "lipschitz_bound(input_shape) -> float that guarantees one"
        )
    require_plain(module, path)
    out = _run(module, path, x)
    try:
        bound, how = LAYERS[kind](module, x, out)
    except ValueError as error:
        raise ValueError(f"{where(module, path)}: {error}") from error
    return [LayerBound(path, bound, how)], out


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


def _chain(parts: Iterable[tuple[str, nn.Module]], path: str, x: Tensor) -> Walked:
    """Modules one after the other, a BatchNorm folded into the dense layer or convolution right before it."""
    layers: list[LayerBound] = []
    rest = list(parts)
    while rest:
        name, part = rest.pop(0)
        full = join(path, name)
        if rest and _folds(part, rest[0][1], x):
            follower_name, follower = rest.pop(0)
            assert isinstance(part, nn.Linear | nn.Conv2d)
            assert isinstance(follower, BatchNorm)
            require_plain(part, full)
            require_plain(follower, join(path, follower_name))
            out = _run(part, full, x)
            try:
                bound, how = linear_bound(part, x, follower)
            except ValueError as error:
                raise ValueError(f"{where(part, full)}: {error}") from error
            layers.append(LayerBound(full, bound, how))
            x = _run(follower, join(path, follower_name), out)
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


def _attributes(*names: str) -> Callable[[nn.Module, str, Tensor], Walked]:
    """The walk of a network whose `forward` runs these attributes in order, whatever else hangs on it."""

    def walk(module: nn.Module, path: str, x: Tensor) -> Walked:
        return _chain([(name, getattr(module, name)) for name in names], path, x)

    return walk


def _sequential(module: nn.Module, path: str, x: Tensor) -> Walked:
    # named_children would leave out the second place of a module that stands in two.
    return _chain(module._modules.items(), path, x)  # type: ignore[arg-type]


def _classifier(module: nn.Module, path: str, x: Tensor) -> Walked:
    assert isinstance(module, Classifier)
    if module.image_size is not None and tuple(x.shape[2:]) != module.image_size:
        raise UsageError(f"the classifier takes images of {module.image_size}, found image_shape {tuple(x.shape[1:])}")
    return _chain([("normalisation", module.normalisation), ("backbone", module.backbone)], path, x)


def _pooled(*names: str) -> Callable[[nn.Module, str, Tensor], Walked]:
    """A backbone's attributes in order, then the mean over H × W, whose norm is 1 / sqrt(H W)."""

    def walk(module: nn.Module, path: str, x: Tensor) -> Walked:
        layers, maps = _attributes(*names)(module, path, x)
        values = maps.shape[2] * maps.shape[3]
        mean = LayerBound(join(path, "mean"), above(1 / math.sqrt(values)), "exact norm of averaging")
        return [*layers, mean], maps.mean((2, 3))

    return walk


def _basic_block(module: nn.Module, path: str, x: Tensor) -> Walked:
    assert isinstance(module, BasicBlock)
    _untouched(module, path)
    names = ("conv1", "bn1", "conv2", "bn2")
    branch, out = _chain([(name, getattr(module, name)) for name in names], path, x)
    shortcut, _ = _walk(module.shortcut, join(path, "shortcut"), x)
    return [_residual(path, branch, shortcut)], out


def _preactivation_block(module: nn.Module, path: str, x: Tensor) -> Walked:
    assert isinstance(module, PreActivationBlock)
    _untouched(module, path)
    first, activated = _walk(module.bn1, join(path, "bn1"), x)
    names = ("conv1", "bn2", "conv2")
    branch, out = _chain([(name, getattr(module, name)) for name in names], path, activated)
    if module.project is None:
        return [_residual(path, first + branch, [])], out
    shortcut, _ = _walk(module.project, join(path, "project"), activated)
    return [*first, _residual(path, branch, shortcut)], out


def _untouched(block: nn.Module, path: str) -> None:
    """Refuse layers that change their input where it lies: the other branch would see it changed."""
    for name, part in block.named_modules():
        if getattr(part, "inplace", False):
            raise UsageError(
                f"{where(part, join(path, name))} works in place within a residual block: set inplace=False"
            )


def _residual(path: str, branch: list[LayerBound], shortcut: list[LayerBound]) -> LayerBound:
    bounds = _product(branch), _product(shortcut)
    return LayerBound(path, above(sum(bounds)), f"branch {bounds[0]:.6g} + shortcut {bounds[1]:.6g}")


COMPOSITES: dict[type[nn.Module], Callable[[nn.Module, str, Tensor], Walked]] = {
    Classifier: _classifier,
    nn.Sequential: _sequential,
    **dict.fromkeys((MLP, ConvNet, LipschitzNet), _attributes("layers")),
    Embedded: _attributes("backbone", "embedding"),
    VGG: _pooled("layers"),
    ResNet: _pooled("stem", "blocks"),
    ResNetCifar: _pooled("stem", "blocks"),
    WideResNet: _pooled("stem", "blocks", "bn"),
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
