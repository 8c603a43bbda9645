"""Guaranteed upper bounds of matrices' spectral norms by Gram iteration, every rounding error paid for."""

import torch
from torch import Tensor

from corral.geometry.radii.rounding import UNIT, inner_product_error

# Doublings of the power: p singular values are told from one to p^(2^-31), 1e-8 for p = 1000.
ITERATIONS = 30
# A bound this near to a norm that was found is done.
CLOSE = 1e-8


def spectral_norms_upper(
    matrices: Tensor, *, iterations: int = ITERATIONS, enough: float = 0.0, largest: bool = False
) -> Tensor:
    """(B,) float64 upper bounds of the l2 operator norms of (B, m, n) matrices, for certain.

    Gram iteration (Delattre et al., ICML 2023): ||A||_2 <= ||A||_F, and ||A||_2^2 = ||A A^*||_2, so that the Frobenius
    norm of the t-th Gram matrix bounds ||A||_2^(2^t), at most sqrt(p) too large for p = min(m, n): the root takes that
    away. Here the chain is kept as inequalities that hold for what was computed:

        ||A_t||_2 <= min(||A_t||_F, sqrt(s_t ||A_{t+1}||_2 + e_t)),   A_{t+1} = fl(A_t A_t^*) / s_t,

    evaluated from the last t to the first. Scales s_t are powers of two, so dividing by them is exact. e_t bounds the
    rounding of the Gram product: entrywise it is off by at most gamma_k |A| |A|^T for any order of summation (Higham
    2002, Eq. 3.13), which in Frobenius norm is at most gamma_k ||A||_F^2; complex products are made of real ones, 3 n
    roundings in all. What the summation of a Frobenius norm, and the square root, may lose is added too.

    Args:
        matrices: (B, m, n) finite float64 or complex128.
        iterations: t at most; fewer give larger bounds, which hold as well.
        enough: matrices whose bound is no larger than this are not iterated further.
        largest: only the largest of the bounds counts: the others are left where they cannot be it.
    """
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.transpose(1, 2)  # of the same norm, conjugated or not
    rows, columns = matrices.shape[1:]
    if matrices.numel() == 0:
        return torch.zeros(len(matrices), dtype=torch.float64, device=matrices.device)
    width = columns * (2 if matrices.is_complex() else 1)
    # What steers the choice of rows to go on with is approximate; what is returned is not.
    exponents = torch.zeros(len(matrices), dtype=torch.float64, device=matrices.device)
    levels: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # what the way back needs
    floor = enough
    for step in range(iterations + 1):
        matrices, scales = _scaled(matrices)
        exponents = exponents + scales.log2() / 2**step
        lengths = _lengths(matrices)
        keep = torch.zeros(len(lengths), dtype=torch.bool, device=lengths.device)
        error = torch.zeros_like(lengths)
        if step < iterations:
            grams = _gram(matrices)
            # ||A A^*||_F / ||A||_F is a singular value at most: how far the bound can still come down.
            found = _lengths(grams) / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
            lower = (exponents + found.clamp_min(1e-300).log2() / 2**step).exp2()
            upper = (exponents + lengths.clamp_min(1e-300).log2() / 2**step).exp2()
            if largest:
                floor = max(floor, float(lower.max()))
                keep = upper > floor * (1 + CLOSE)
            else:
                keep = (upper > lower * (1 + CLOSE)) & (upper > floor)
            keep = keep & (lengths > 0)
            error = inner_product_error(width if step == 0 else 2 * rows, lengths.square())
            matrices, exponents = grams[keep], exponents[keep]
            del grams
        levels.append((scales, lengths, error, keep))
        if not bool(keep.any()):
            break
    return _way_back(levels)


def _way_back(levels: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Tensor:
    """The chain of inequalities from the last Gram matrices to the first matrices."""
    bounds = levels[-1][1]
    for scales, lengths, error, keep in reversed(levels):
        here = lengths.clone()
        if bool(keep.any()):
            here[keep] = torch.minimum(here[keep], ((bounds + error[keep]) * (1 + 8 * UNIT)).sqrt() * (1 + 4 * UNIT))
        bounds = here * scales
        # The product by a power of two is exact unless it falls below the smallest normal number.
        lost = (bounds < torch.finfo(bounds.dtype).tiny) & (lengths > 0)
        bounds = torch.where(lost, bounds.nextafter(torch.full_like(bounds, torch.inf)), bounds)
    return bounds


def _scaled(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices over a power of two each, so that the largest part of an entry is in [1, 2); and these powers."""
    parts = torch.view_as_real(matrices) if matrices.is_complex() else matrices
    top = parts.abs().flatten(1).amax(1)
    mantissa = torch.frexp(top).mantissa
    scales = torch.where(top > 0, top / (2 * mantissa), torch.ones_like(top))
    return matrices / scales[:, None, None], scales


def _lengths(matrices: Tensor) -> Tensor:
    """Frobenius norms, no smaller than they are: every sum of squares is raised by its rounding."""
    parts = torch.view_as_real(matrices) if matrices.is_complex() else matrices
    squares = parts.square().flatten(1).sum(1)
    return ((squares + inner_product_error(parts[0].numel(), squares)) * (1 + 4 * UNIT)).sqrt() * (1 + 4 * UNIT)


def _gram(matrices: Tensor) -> Tensor:
    """A A^*, of real products only: how a library multiplies complex matrices is its own affair."""
    if not matrices.is_complex():
        return matrices @ matrices.transpose(1, 2)
    real, imaginary = matrices.real, matrices.imag
    both = torch.cat([real, imaginary], 2)
    cross = imaginary @ real.transpose(1, 2)
    return torch.complex(both @ both.transpose(1, 2), cross - cross.transpose(1, 2))
