"""The perturbation that Square Attack puts into a window for L2 and L1 (Andriushchenko et al. 2020, Sec. 3.4)."""

import torch
from torch import Tensor


def bumps(tall: int, wide: int, *, order: int, steepness: int, device: torch.device) -> Tensor:
    """(2, tall * wide) float64: a positive bump above a negative one, and a positive bump left of a negative one.

    Args:
        tall: height of the window.
        wide: its width.
        order: of the norm in which each half, then the whole, has length 1: 2 or 1.
        steepness: values fall like a sum of 1 / k^steepness over the rings around a bump's middle: 2 for L2, 4 for L1.
        device: where to put them.
    """
    stacked = _pair(tall, wide, order, steepness)
    aside = _pair(wide, tall, order, steepness).T
    return torch.stack([stacked.flatten(), aside.flatten()]).to(device)


def _pair(tall: int, wide: int, order: int, steepness: int) -> Tensor:
    halves = [_bump(tall // 2, wide, order, steepness), -_bump(tall - tall // 2, wide, order, steepness)]
    return _unit(torch.cat(halves), order)


def _bump(tall: int, wide: int, order: int, steepness: int) -> Tensor:
    """The paper's Eq. 1: at r rings from the middle, the sum over k > r of 1 / k^steepness."""
    if tall == 0:
        return torch.zeros(0, wide, dtype=torch.float64)
    rows, columns = (torch.arange(tall) - tall // 2).abs(), (torch.arange(wide) - wide // 2).abs()
    rings = torch.maximum(rows.unsqueeze(1), columns)
    terms = torch.arange(1, max(tall // 2, wide // 2) + 2, dtype=torch.float64) ** -steepness
    bump = terms.flip(0).cumsum(0).flip(0)[rings]
    return _unit(bump, order)


def _unit(values: Tensor, order: int) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(values, order)
    return values / length
