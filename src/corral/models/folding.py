"""BatchNorm in eval mode as part of the convolution before it: one layer's work less, the same function."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from corral.models.pointwise import Pointwise

Pair = tuple[nn.Conv2d, nn.Module, str]


def foldable(network: nn.Module) -> Iterator[Pair]:
    """Every convolution of a network whose output one BatchNorm alone takes, and where that one is held.

    They are neighbours in an `nn.Sequential`, or what a block names in `normalised`. Left out are layers of another
    kind, those that a hook watches or that stand in two places, and a BatchNorm without running statistics.

    Args:
        network: of torch's and corral's modules alone; others might call their parts in another order.

    Yields:
        The convolution, the module that holds its BatchNorm, and the BatchNorm's name there.
    """
    owners = list(network.modules())
    places = Counter(id(child) for owner in owners for child in owner._modules.values())
    places.update(id(weight) for _, weight in network.named_parameters(remove_duplicate=False))
    for owner in owners:
        pairs = pairwise(owner._modules) if type(owner) is nn.Sequential else getattr(owner, "normalised", ())
        for before, after in pairs:
            conv, norm = owner._modules.get(before), owner._modules.get(after)
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
                continue
            exact = type(conv) in (nn.Conv2d, Pointwise) and type(norm) is nn.BatchNorm2d
            shared = max(places[id(one)] for one in (conv, norm, conv.weight)) > 1
            if exact and not shared and not _watched(conv) and not _watched(norm):
                yield conv, owner, after


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(out, in, h, w) weight and (out,) bias of the convolution that does both in eval mode.

    w' = w γ / √(σ² + ε) and b' = β + (b - μ) γ / √(σ² + ε), in float64, rounded once to the weight's dtype.
    """
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    with torch.no_grad():
        scale = (variance.double() + norm.eps).rsqrt()
        shift = -mean.double() if conv.bias is None else conv.bias.double() - mean.double()
        if norm.affine:
            scale = scale * norm.weight.double()
            shift = norm.bias.double() + shift * scale
        else:
            shift = shift * scale
        weight = conv.weight.double() * scale[:, None, None, None]
        return weight.to(conv.weight.dtype), shift.to(conv.weight.dtype)


@contextmanager
def folded(network: nn.Module) -> Iterator[None]:
    """Hold a network in eval mode with every `foldable` BatchNorm as part of its convolution.

    A pair whose folded numbers are not finite stays as it is. On leaving, also by an exception, weights, biases and
    BatchNorms are in their places again.
    """
    held: list[tuple[nn.Conv2d, Tensor, nn.Parameter | None, nn.Module, str, nn.Module]] = []
    try:
        for conv, owner, name in list(foldable(network)):
            norm = owner._modules[name]
            assert isinstance(norm, nn.BatchNorm2d)
            weight, bias = fold(conv, norm)
            if not (weight.isfinite().all() and bias.isfinite().all()):
                continue
            held.append((conv, conv.weight.data, conv._parameters["bias"], owner, name, norm))
            conv.weight.data = torch.empty_like(conv.weight).copy_(weight)  # in the order in which the kernel lies
            conv._parameters["bias"] = nn.Parameter(bias, requires_grad=False)
            owner._modules[name] = nn.Identity()
        yield
    finally:
        for conv, data, before, owner, name, norm in held:
            conv.weight.data = data
            conv._parameters["bias"] = before
            owner._modules[name] = norm


def _watched(module: nn.Module) -> bool:
    """Whether a hook sees what goes through a module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)
