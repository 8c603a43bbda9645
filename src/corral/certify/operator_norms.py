"""Guaranteed upper bounds of the l2 operator norms of dense layers and zero-padded convolutions."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from corral.certify.gram import ITERATIONS, spectral_norms_upper
from corral.geometry.radii.rounding import inner_product_error

Pair = int | tuple[int, ...]
# Convolutions of no more entries than this are written out as matrices.
MOST_ENTRIES = 2**18


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
    `spectral_norms_upper`'s. On images so small that the convolution's matrix is, its own norm is taken.

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
    strides, dilations = pair(stride), pair(dilation)
    kernel = (weight.shape[2], weight.shape[3])
    if min(*strides, *dilations, *kernel, *image_size, weight.shape[1]) < 1:
        raise ValueError("channels, kernel, stride, dilation and image_size must be at least 1")
    extents = [(size - 1) * gap for size, gap in zip(kernel, dilations, strict=True)]  # of the taps, less 1
    zeros = _zeros(padding, extents)
    lengths = [length + sum(sides) - extent for length, sides, extent in zip(image_size, zeros, extents, strict=True)]
    if min(lengths) < 1:
        raise ValueError(
            f"images of {image_size[0]}×{image_size[1]} are smaller than the {kernel[0]}×{kernel[1]} kernel"
        )
    values = weight.detach().double()
    top = float(values.abs().max()) if values.numel() > 0 else 0.0
    if top == 0:
        return 0.0
    # Over a power of two, exactly: squares of the largest and of the smallest numbers would leave float64.
    scale = math.ldexp(1.0, math.frexp(top)[1] - 1)
    values = values / scale
    outputs = math.prod(math.ceil(length / step) for length, step in zip(lengths, strides, strict=True))
    if weight.shape[0] * weight.shape[1] * groups * math.prod(image_size) * outputs <= MOST_ENTRIES:
        # The convolution's matrix, exactly: a basis image meets one weight in every output.
        channels = weight.shape[1] * groups
        basis = torch.eye(channels * math.prod(image_size), dtype=torch.float64).view(-1, channels, *image_size)
        padded = functional.pad(basis, (*zeros[1], *zeros[0]))
        matrix = functional.conv2d(padded, values.cpu(), stride=strides, dilation=dilations, groups=groups).flatten(1)
        return math.nextafter(dense_norm_upper(matrix, iterations=iterations) * scale, math.inf)
    circle = [
        math.ceil((length + min(max(sides), extent)) / step) * step
        for length, sides, extent, step in zip(image_size, zeros, extents, strides, strict=True)
    ]
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


def pair(value: Pair) -> tuple[int, int]:
    """The numbers of both axes."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _zeros(padding: Pair | str, extents: list[int]) -> list[tuple[int, int]]:
    """Zeros before and after the image, for each axis."""
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"padding must be numbers, 'same' or 'valid', found {padding!r}")
        return [(0, 0) if padding == "valid" else (extent // 2, extent - extent // 2) for extent in extents]
    if min(pair(padding)) < 0:
        raise ValueError(f"padding must be at least 0, found {padding}")
    return [(side, side) for side in pair(padding)]


def _check_finite(weight: Tensor) -> None:
    if not bool(torch.isfinite(weight).all()):
        raise ValueError(f"weights must be finite, found NaN or infinity in a weight of shape {tuple(weight.shape)}")
