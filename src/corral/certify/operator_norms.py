"""Guaranteed upper bounds of the l2 operator norms of dense layers and zero-padded convolutions."""

import math

import torch
from torch import Tensor

from corral.certify.gram import ITERATIONS, spectral_norms_upper
from corral.certify.rounding import inner_product_error

Pair = int | tuple[int, int]


def dense_norm_upper(weight: Tensor, *, iterations: int = ITERATIONS) -> float:
    """An upper bound of a matrix's largest singular value, for certain, and within 1e-6 of it (relative).

    In float64 whatever the weight's dtype; rounding is paid for as `spectral_norms_upper` says.

    Args:
        weight: (m, n) finite.
        iterations: of Gram, at most; fewer give a larger bound.

    Raises:
        ValueError: another shape, NaN or infinity.
    """
    if weight.dim() != 2:
        raise ValueError(f"weight must be (m, n), found {tuple(weight.shape)}")
    _check_finite(weight)
    return float(spectral_norms_upper(weight.detach().double().unsqueeze(0), iterations=iterations)[0])


def conv_norm_upper(
    weight: Tensor,
    *,
    image_size: tuple[int, int],
    padding: Pair | str = 0,
    stride: Pair = 1,
    dilation: Pair = 1,
    groups: int = 1,
    iterations: int = ITERATIONS,
) -> float:
    """An upper bound of the l2 operator norm of a 2-D convolution with zero padding, for certain.

    With p zeros at each side the taps reach from -p to H + p - 1. On a circle of n >= H + p both borders are the same
    zeros, so the convolution is the circular one of n × n restricted to inputs that vanish there and to some of its
    outputs, and its norm is no larger. (With p = k - 1 this is the full convolution on n + k - 1; more zeros add only
    zeros.) The circle is rounded up to a multiple of the stride s: then keeping every s-th output joins the s^2
    frequencies that alias, and the strided circular operator's norm is the largest ||[K(w_1) ... K(w_{s^2})]|| / s
    over the classes of frequencies, K(w) the (out, in) transfer matrix, with half of them enough for a real kernel.

    K(w) is summed with tabled sines, in float64: an entry's t taps are off by at most sqrt(2) gamma_t + 11 u (the
    angle is reduced in integers), which in norm is below 2 (t + 16) u sum_j ||w_j||_F and is added. The norms of K are
    `spectral_norms_upper`'s.

    Args:
        weight: (out, in / groups, kernel height, kernel width) finite.
        image_size: (H, W) of the layer's input.
        padding: zeros at each side, as nn.Conv2d takes it ("same" and "valid" too).
        stride: of the output.
        dilation: between taps.
        groups: as in nn.Conv2d; the operator is block diagonal then.
        iterations: of Gram, at most; fewer give a larger bound.

    Raises:
        ValueError: shapes that do not fit, an image smaller than the kernel, NaN or infinity.
    """
    if weight.dim() != 4 or groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"weight must be (out, in / groups, h, w), found {tuple(weight.shape)} with {groups} groups")
    _check_finite(weight)
    strides, dilations = _pair(stride), _pair(dilation)
    kernel = (weight.shape[2], weight.shape[3])
    reach = [(size - 1) * gap for size, gap in zip(kernel, dilations, strict=True)]  # taps' extent less 1
    sides = _sides(padding, reach)
    if min(*strides, *dilations, *kernel, *image_size) < 1 or min(sides) < 0:
        raise ValueError("kernel, stride, dilation and image_size must be at least 1 and padding at least 0")
    zeros = [sum(_both_sides(padding, extent, side)) for extent, side in zip(reach, sides, strict=True)]
    if any(length + more <= extent for length, more, extent in zip(image_size, zeros, reach, strict=True)):
        raise ValueError(
            f"images of {image_size[0]}×{image_size[1]} are smaller than the {kernel[0]}×{kernel[1]} kernel"
        )
    circle = [
        math.ceil((length + min(side, extent)) / step) * step
        for length, side, extent, step in zip(image_size, sides, reach, strides, strict=True)
    ]
    values = weight.detach().double()
    top = float(values.abs().max()) if values.numel() > 0 else 0.0
    if top == 0:
        return 0.0
    # Over a power of two, exactly: squares of the largest and of the smallest numbers would leave float64.
    scale = math.ldexp(1.0, math.frexp(top)[1] - 1)
    values = values / scale
    symbols = _transfer_matrices(values, circle, strides, dilations, groups)
    slack = inner_product_error(kernel[0] * kernel[1], values.flatten(2).norm(dim=(0, 1)).sum()) * (1 + 1e-9)
    norm = float(spectral_norms_upper(symbols, iterations=iterations, largest=True).max())
    bound = (norm / math.sqrt(strides[0] * strides[1]) + float(slack)) * (1 + 1e-15)
    return math.nextafter(bound * scale, math.inf)


def _transfer_matrices(
    weight: Tensor, circle: list[int], strides: tuple[int, int], dilations: tuple[int, int], groups: int
) -> Tensor:
    """(groups × classes of frequencies, out / groups, aliases × in / groups) complex, each class's K side by side."""
    out, channels, height, width = weight.shape
    coarse = [length // step for length, step in zip(circle, strides, strict=True)]
    half = coarse[1] // 2 + 1  # K(-w) is the conjugate of K(w)
    device = weight.device
    angles = []  # (classes, aliases, taps) in turns × length, for each axis
    for axis, classes, size in ((0, coarse[0], height), (1, half, width)):
        length = circle[axis]
        frequency = torch.arange(classes, device=device)[:, None] + coarse[axis] * torch.arange(
            strides[axis], device=device
        )
        turns = frequency.unsqueeze(2) * (dilations[axis] * torch.arange(size, device=device))
        angles.append(turns % length)
    # The two axes' turns as one fraction of the circles' common multiple, so that one angle is rounded once.
    common = math.lcm(*circle)
    rows, columns = (turns * (common // length) for turns, length in zip(angles, circle, strict=True))
    joint = (rows[:, None, :, None, :, None] + columns[None, :, None, :, None, :]) % common
    joint = torch.where(joint > common // 2, joint - common, joint)
    angle = (2 * math.pi) * joint.double() / common  # (h classes, w classes, h aliases, w aliases, taps, taps)
    angle = angle.flatten(0, 1).flatten(1, 2).flatten(2, 3)  # (classes, aliases, taps)
    kernel = weight.reshape(groups, out // groups, channels, height * width)
    waves = torch.polar(torch.ones_like(angle), angle)
    real, imaginary = (torch.einsum("fat,goit->gfoai", part, kernel) for part in (waves.real, waves.imag))
    return torch.complex(real, imaginary).flatten(3, 4).flatten(0, 1)


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _sides(padding: Pair | str, reach: list[int]) -> tuple[int, int]:
    """Zeros on the side that has most."""
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"padding must be numbers, 'same' or 'valid', found {padding!r}")
        return (0, 0) if padding == "valid" else ((reach[0] + 1) // 2, (reach[1] + 1) // 2)
    return _pair(padding)


def _both_sides(padding: Pair | str, extent: int, side: int) -> tuple[int, int]:
    return (extent - side, side) if padding == "same" else (side, side)


def _check_finite(weight: Tensor) -> None:
    if not bool(torch.isfinite(weight).all()):
        raise ValueError(f"weights must be finite, found NaN or infinity in a weight of shape {tuple(weight.shape)}")
