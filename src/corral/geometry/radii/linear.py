"""Radii for linear scores: how far a feature may move before another class's score is the largest."""

import torch
from torch import Tensor

from corral.geometry.radii.rounding import below, inner_product_error


def linear_radius(features: Tensor, weight: Tensor, bias: Tensor | None = None, *, lipschitz: float = 1.0) -> Tensor:
    """(N,) exact radii of argmax_c w_c·z + b_c: min over rivals j of ((w_c - w_j)·z + b_c - b_j) / ||w_c - w_j||.

    Linear heads, and heads that compare inner products or cosines with centres w_c (MAT, MMC): a cosine's argmax is the
    inner product's with the centres scaled to length one. With centres of equal length and no bias it is
    `nearest_radius` of those centres.

    Args:
        features: (N, d) finite.
        weight: (C, d) finite, at least two classes.
        bias: (C,) finite.
        lipschitz: an upper bound on the backbone's l2 Lipschitz constant, > 0: radii are divided by it.

    Returns:
        (N,) float64 l2 radii >= 0, lowered by what rounding could have added; 0 where two classes tie.

    Raises:
        ValueError: other shapes, values or constant than these.
    """
    if features.dim() != 2 or weight.dim() != 2 or features.shape[1] != weight.shape[1] or len(weight) < 2:
        raise ValueError(
            f"features (N, d) and weight (C, d), C >= 2, must have one d, found {tuple(features.shape)} and "
            f"{tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({len(weight)},), found {tuple(bias.shape)}")
    points, rows = features.double(), weight.double()
    offsets = rows.new_zeros(len(rows)) if bias is None else bias.double()
    if not all(bool(torch.isfinite(values).all()) for values in (points, rows, offsets)):
        raise ValueError("features, weight and bias must be finite, found NaN or infinity")
    if not 0 < lipschitz < float("inf"):
        raise ValueError(f"lipschitz must be positive and finite, found {lipschitz}")
    scores = points @ rows.T + offsets
    decided = scores.argmax(1)
    own = scores.gather(1, decided.unsqueeze(1))
    reach = rows.norm(dim=1).max() * points.norm(dim=1, keepdim=True) + offsets.abs().max()
    gaps = own - scores - inner_product_error(points.shape[1] + 1, 2 * reach)
    lengths = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")[decided]
    margins = torch.where(lengths > 0, gaps / lengths.clamp_min(torch.finfo(lengths.dtype).tiny), 0.0)
    rivals = margins.scatter(1, decided.unsqueeze(1), torch.inf)
    return below(rivals.amin(1) / lipschitz)
