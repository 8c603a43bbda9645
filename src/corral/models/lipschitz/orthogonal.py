"""Orthogonal dense and pointwise layers by the Cayley transform."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.models.frozen import UNIT, FrozenLayer


def cayley(free: Tensor) -> Tensor:
    """(n, k) with orthonormal columns from any (n, k), n >= k (Trockman and Kolter, ICLR 2021, Sec. 4).

    With U the first k rows, V the others and A = U - U^T + V^T V: Q = [(I - A)(I + A)^-1; -2 V (I + A)^-1]. I + A is
    never singular, its symmetric part being I + V^T V.

    Args:
        free: (n, k), n >= k.
    """
    columns = free.shape[1]
    top, below = free[:columns], free[columns:]
    skew = top - top.T + below.T @ below
    identity = torch.eye(columns, dtype=free.dtype, device=free.device)
    # X = (I + A)^-1 as the solution of (I + A) X = I; (I - A) X = 2 X - I.
    inverse = torch.linalg.solve(identity + skew, identity)
    return torch.cat([2 * inverse - identity, -2 * below @ inverse])


def orthogonal_norm_bound(matrix: Tensor) -> float:
    """A guaranteed upper bound on the operator norm of a float64 matrix (m, n), close where it is semi-orthogonal.

    With G the smaller Gram matrix and E = G - I, the norm is at most sqrt(1 + ||E||), and ||E|| at most the fourth root
    of ||E^4||_F: the Frobenius norm of E itself would lose a factor of up to sqrt(m). The product's rounding, gamma_n
    times the squared Frobenius norm (Higham 2002, Eq. 3.5), is added, and that of the powers, m^2 u of ||E||. A matrix
    that is not finite has the bound infinity.
    """
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    small, large = matrix.shape
    excess = matrix @ matrix.T - torch.eye(small, dtype=matrix.dtype, device=matrix.device)
    slack = 2 * (large + 16) * UNIT * float(matrix.square().sum() + small)
    # Scaled, so that no power underflows.
    size = float(excess.abs().max())
    if not math.isfinite(size):
        return math.inf
    scaled = excess / max(size, slack)
    squared = scaled @ scaled
    power = float((squared @ squared).square().sum()) ** 0.125 * (1 + 8 * small**2 * UNIT)
    return math.sqrt(1 + power * max(size, slack) + slack) * (1 + 4 * UNIT)


class Orthogonal(FrozenLayer):
    """x to W x + b over the channels of (N, C) or (N, C, H, W), W semi-orthogonal: an isometry, or a projection.

    W (out, in) has orthonormal columns where out >= in, and keeps every norm; otherwise orthonormal rows. It is the
    Cayley transform of free / sqrt(max(in, out)), with free of standard normal entries at first: one learning rate
    suits layers of all sizes.

    Args:
        channels: in.
        width: out.
        bias: add b.
    """

    def __init__(self, channels: int, width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.wide = channels > width
        self.weight = nn.Parameter(torch.randn(max(channels, width), min(channels, width)))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def free(self) -> tuple[Tensor, ...]:
        """The free matrix."""
        return (self.weight,)

    def constrain(self, *free: Tensor) -> tuple[Tensor, ...]:
        """W (out, in).

        Args:
            *free: the one free matrix, of W's shape.
        """
        (weight,) = free
        found = cayley(weight / weight.shape[0] ** 0.5)
        return (found.T if self.wide else found,)

    def forward(self, x: Tensor) -> Tensor:
        """(N, out) of x (N, in), or (N, out, H, W) of x (N, in, H, W)."""
        (matrix,) = self.effective()
        if x.dim() == 2:
            return functional.linear(x, matrix, self.bias)
        return functional.conv2d(x, matrix[:, :, None, None], self.bias)

    def _bound(self, *effective: Tensor) -> float:
        return orthogonal_norm_bound(effective[0])
