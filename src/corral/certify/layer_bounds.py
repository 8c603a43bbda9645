"""Guaranteed l2 Lipschitz bounds of single layers in eval mode, by their type."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.certify.operator_norms import conv_norm_upper, dense_norm_upper, pair
from corral.geometry.radii.rounding import UNIT
from corral.models.classifier import Normalisation
from corral.models.pointwise import Pointwise

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
GRAM = "Gram iteration"
ONE = (nn.ReLU, nn.Tanh, nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d)


def above(value: float) -> float:
    """A value raised by what a few float64 operations may have lost."""
    return value * (1 + 8 * UNIT)


def linear_bound(layer: nn.Module, x: Tensor, norm: nn.Module | None = None) -> tuple[float, str]:
    """The operator norm of a dense layer or convolution, with the BatchNorm that follows it folded into its weight.

    Of the input x only the shape counts; of the layer the effective weight, parametrized or not.

    Raises:
        ValueError: a convolution whose padding is not zeros; weights that are not finite.
    """
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    weight = layer.weight.detach().double()
    slack = 0.0
    if norm is not None:
        assert isinstance(norm, BatchNorm)
        weight = weight * batchnorm_factors(norm).view(-1, *[1] * (weight.dim() - 1))
        # Every folded weight is off by 5 u of itself at most: in norm by that many of sqrt(taps) ||w||_F.
        slack = 8 * UNIT * math.sqrt(weight[0, 0].numel()) * float(weight.norm())
    if isinstance(layer, nn.Linear):
        bound = dense_norm_upper(weight)
    else:
        if layer.padding_mode != "zeros":
            raise ValueError(f"only zero padding has a bound here, found padding_mode {layer.padding_mode!r}")
        bound = conv_norm_upper(
            weight,
            image_size=(x.shape[-2], x.shape[-1]),
            padding=layer.padding,
            stride=layer.stride,
            dilation=layer.dilation,
            groups=layer.groups,
        )
    return above(bound + slack), GRAM if norm is None else f"{GRAM}, BatchNorm folded in"


def normalisation_constant(std: Tensor | Sequence[float]) -> float:
    """The l2 Lipschitz constant max(1 / std) of a channel normalisation (x - mean) / std.

    Raises:
        ValueError: a standard deviation that is not positive and finite.
    """
    values = torch.as_tensor(std, dtype=torch.float64)
    if values.numel() == 0 or not bool((values > 0).all() & torch.isfinite(values).all()):
        raise ValueError(f"std must be positive and finite, found {values.tolist()}")
    return float(1 / values.min())


def batchnorm_factors(layer: BatchNorm) -> Tensor:
    """(C,) float64 gamma / sqrt(var + eps), what eval mode multiplies the channels by.

    Raises:
        ValueError: no running statistics, so that eval mode is no fixed map either; or factors that are not finite.
    """
    if layer.running_var is None:
        raise ValueError("a BatchNorm without running statistics has no Lipschitz constant: each batch changes it")
    variance = layer.running_var.detach().double()
    gamma = torch.ones_like(variance) if layer.weight is None else layer.weight.detach().double()
    factors = gamma / (variance + layer.eps).sqrt()
    if not bool(torch.isfinite(factors).all()):
        raise ValueError("BatchNorm's gamma / sqrt(var + eps) must be finite, found NaN or infinity")
    return factors


def _batchnorm(layer: Any, x: Tensor, out: Tensor) -> tuple[float, str]:
    return above(float(batchnorm_factors(layer).abs().max())), "largest |gamma| / sqrt(var + eps)"


def _normalisation(layer: Any, x: Tensor, out: Tensor) -> tuple[float, str]:
    if x.shape[1] != len(layer.std):
        raise ValueError(f"images must have {len(layer.std)} channels, found {x.shape[1]}")
    return above(normalisation_constant(layer.std)), "largest 1 / std"


def _max_pool(layer: Any, x: Tensor, out: Tensor) -> tuple[float, str]:
    """sqrt of the number of windows an input is in: the move of a maximum is at most the window's largest move."""
    windows = 1
    axes = zip(pair(layer.kernel_size), pair(layer.stride), pair(layer.dilation), strict=True)
    for size, step, gap in axes:
        # Taps gap × j of an output at step × i: those that meet an input are every step / gcd-th.
        windows *= math.ceil(size * math.gcd(step, gap) / step)
    if windows == 1:
        return 1.0, "windows apart"
    return above(math.sqrt(windows)), f"an input in up to {windows} windows"


def _average_pool(layer: Any, x: Tensor, out: Tensor) -> tuple[float, str]:
    if layer.divisor_override is not None:
        raise ValueError("an AvgPool2d with divisor_override has no bound here: leave it out")
    kernel, stride, padding = (pair(value) for value in (layer.kernel_size, layer.stride, layer.padding))

    def along(columns: Tensor, axis: int) -> Tensor:
        sizes = (kernel[axis], 1), (stride[axis], 1), (padding[axis], 0)
        return functional.avg_pool2d(columns, *sizes, layer.ceil_mode, layer.count_include_pad)

    return _averaging(x, along)


def _adaptive_average_pool(layer: Any, x: Tensor, out: Tensor) -> tuple[float, str]:
    return _averaging(x, lambda columns, axis: functional.adaptive_avg_pool2d(columns, (out.shape[2 + axis], 1)))


def _averaging(x: Tensor, along: Callable[[Tensor, int], Tensor]) -> tuple[float, str]:
    """The exact norm: averaging is the same matrix on every row times the same on every column."""
    bound = 1.0
    for axis in (0, 1):
        identity = torch.eye(x.shape[2 + axis], dtype=torch.float64)[:, None, :, None]
        bound *= dense_norm_upper(along(identity, axis).flatten(1))
    return above(bound), "exact norm of averaging"


def _leaky(layer: Any, x: Tensor, out: Tensor) -> tuple[float, str]:
    return max(1.0, float(abs(layer.negative_slope))), "steepest slope"


# By exact type: a subclass may compute something else. (layer, input, output) -> (bound, how).
LAYERS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], tuple[float, str]]] = {
    **dict.fromkeys((nn.Linear, nn.Conv2d, Pointwise), lambda layer, x, out: linear_bound(layer, x)),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _batchnorm),
    Normalisation: _normalisation,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive_average_pool,
    nn.LeakyReLU: _leaky,
    **dict.fromkeys(ONE, lambda layer, x, out: (1.0, "1-Lipschitz")),
}
