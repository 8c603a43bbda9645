"""Random numbers that belong to an image, not to its place in a batch: the same in any batch, order and device.

So results do not depend on the batch size, and a resumed evaluation draws the same numbers. They are a hash of (key of
the image, number of the draw, element).
"""

import math

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea & Flood 2014) on two's complement int64, where products wrap around.
GOLDEN, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
# A draw's number and an element's number share one counter: 2^40 elements a draw.
DRAW = 2**40


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's own keeps the sign."""
    shifted: Tensor = (values >> bits) & (2 ** (64 - bits) - 1)
    return shifted


def _mixed(values: Tensor) -> Tensor:
    values = (values ^ _shifted(values, 30)) * FIRST
    values = (values ^ _shifted(values, 27)) * SECOND
    return values ^ _shifted(values, 31)


def image_keys(x: Tensor, seed: int) -> Tensor:
    """(N,) int64 keys of (N, ...) float images: a hash of pixels and seed. Equal images have equal keys.

    Args:
        x: images; their values as float32 are hashed.
        seed: any integer; another seed gives other keys.
    """
    bits = x.detach().to(torch.float32).contiguous().view(torch.int32).flatten(1).long()
    counters = torch.arange(1, bits.shape[1] + 1, device=x.device) * GOLDEN
    salt = torch.full((1,), (seed * GOLDEN + 2**63) % 2**64 - 2**63, device=x.device)  # wrapped to an int64
    # A sum of mixed words: exact in any order of summation, so equal on every device.
    return _mixed(_mixed(bits ^ counters).sum(1) + _mixed(salt))


def uniform(keys: Tensor, draw: int | Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """(n, *shape) float32 uniform in [0, 1).

    Args:
        keys: (n,) from `image_keys`.
        draw: which draw: one number for all, or (n,) int64 one each; equal numbers give equal values.
        shape: of one image's values, () for a single value.
    """
    elements = torch.arange(math.prod(shape), device=keys.device)
    draws = draw if isinstance(draw, Tensor) else torch.full_like(keys, draw)
    counters = keys.unsqueeze(1) + (draws.unsqueeze(1) * DRAW + elements) * GOLDEN
    # 24 bits: every value is a float32, and none rounds to 1.
    return (_shifted(_mixed(counters), 40).to(torch.float32) * 2.0**-24).view(-1, *shape)


def normal(keys: Tensor, draw: int | Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """(n, *shape) float32 standard normal (Box-Muller); arguments as `uniform`."""
    pairs = uniform(keys, draw, (2, *shape)).double()
    radius = (-2 * torch.log1p(-pairs[:, 0])).sqrt()
    return (radius * torch.cos(2 * math.pi * pairs[:, 1])).float()


def integers(keys: Tensor, draw: int | Tensor, high: int | Tensor, shape: tuple[int, ...] | torch.Size = ()) -> Tensor:
    """(n, *shape) int64 uniform in [0, high); `high` one number or a tensor that broadcasts over (n, *shape)."""
    scaled = uniform(keys, draw, shape).double() * high
    return torch.minimum(scaled.long(), torch.as_tensor(high, device=keys.device) - 1)


def signs(keys: Tensor, draw: int | Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """(n, *shape) float32, -1 or 1 with equal probability; arguments as `uniform`."""
    return (uniform(keys, draw, shape) >= 0.5).float().mul_(2).sub_(1)
