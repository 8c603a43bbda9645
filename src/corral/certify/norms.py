"""An l2 radius in other norms, and what the first layer adds to a Lipschitz constant."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def l2_to_l1(radii: Tensor) -> Tensor:
    """(N,) l1 radii of (N,) l2 radii: ||x||_2 <= ||x||_1, so the same number holds."""
    return radii


def l2_to_linf(radii: Tensor, values: int) -> Tensor:
    """(N,) l-infinity radii of (N,) l2 radii: ||x||_2 <= sqrt(n) ||x||_inf.

    Args:
        radii: l2 radii.
        values: n, the number of input values (channels × height × width).

    Raises:
        ValueError: values below 1.
    """
    if values < 1:
        raise ValueError(f"values must be the number of input values, at least 1, found {values}")
    return radii / math.sqrt(values)


def normalisation_constant(std: Tensor | Sequence[float]) -> float:
    """The l2 Lipschitz constant max(1 / std) of a channel normalisation (x - mean) / std.

    Args:
        std: per-channel standard deviations, positive.

    Raises:
        ValueError: one of them is not positive and finite.
    """
    values = torch.as_tensor(std, dtype=torch.float64)
    if values.numel() == 0 or not bool((values > 0).all() & torch.isfinite(values).all()):
        raise ValueError(f"std must be positive and finite, found {values.tolist()}")
    return float(1 / values.min())
