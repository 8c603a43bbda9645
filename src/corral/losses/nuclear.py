"""The nuclear norm of a batch's residuals (Sriramanan et al. 2021): one number a batch, not one an example."""

import torch
from torch import Tensor

from corral.precision import full_precision


@full_precision
def nuclear_norm(residuals: Tensor) -> Tensor:
    """The sum of the singular values of a batch's residuals, by rows: NuAT's ||f(x_adv) - f(x)||_*.

    Of one row it is its length. Its gradient U V^T is finite, with no singular value above 1, for repeated and zero
    singular values too, where it is one of the subgradients.

    Args:
        residuals: (N, k), such as differences of logits or of features and their centroids.

    Returns:
        A scalar, at least 0; not a number, with gradient 0, where a residual is not finite.
    """
    finite = torch.isfinite(residuals).all()
    # The decomposition raises for numbers that are not finite; training's guard names the step by the loss instead.
    total: Tensor = torch.linalg.svdvals(residuals.where(finite, torch.zeros_like(residuals))).sum()
    return total.where(finite, torch.full_like(total, torch.nan))
