"""SDP-based Lipschitz layers, dense and convolutional (Araujo et al., ICLR 2023)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.models.frozen import UNIT, FrozenLayer


class SLL(FrozenLayer):
    """x to x - 2 W^T T^-1 relu(W x + b), 1-Lipschitz where the diagonal T dominates W W^T (Theorem 3).

    T_i = sum_j |W W^T|_ij q_j / q_i for any q > 0, of which the logarithm is learned. W is a matrix (hidden, channels),
    or a convolution (hidden, channels, k, k), zero-padded: then W W^T is the kernel's correlation with itself and the
    sum runs over its offsets too. Padding and borders keep rows and columns of that operator, and what is kept is
    dominated as well.

    Args:
        channels: of the input and the output.
        hidden: rows of W.
        kernel: 0 for a dense layer on (N, channels), an odd k for a convolution on (N, channels, H, W).

    Raises:
        ValueError: an even kernel above 0.
    """

    def __init__(self, channels: int, hidden: int, *, kernel: int = 0) -> None:
        super().__init__()
        if kernel < 0 or (kernel and kernel % 2 == 0):
            raise ValueError(f"kernel must be 0 (dense) or odd, found {kernel}")
        self.kernel = kernel
        size = max(kernel, 1)
        self.weight = nn.Parameter(torch.empty(hidden, channels, size, size))
        nn.init.xavier_normal_(self.weight)
        self.log_q = nn.Parameter(torch.zeros(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))

    def free(self) -> tuple[Tensor, ...]:
        """W and log q."""
        return self.weight, self.log_q

    def constrain(self, *free: Tensor) -> tuple[Tensor, ...]:
        """W, 2 T^-1 and q, T raised by 1e-6 of itself and 1e-12 so that rounding does not lift the layer above 1.

        Args:
            *free: W and log q.
        """
        weight, log_q = free
        q = log_q.exp()
        return weight, 2 / (_row_sums(weight, q) * (1 + 1e-6) + 1e-12), q

    def forward(self, x: Tensor) -> Tensor:
        """Of x's shape."""
        weight, scale, _ = self.effective()
        maps = x if self.kernel else x[:, :, None, None]
        hidden = functional.conv2d(maps, weight, self.bias, padding=self.kernel // 2).relu()
        back = functional.conv_transpose2d(hidden * scale[:, None, None], weight, padding=self.kernel // 2)
        moved = maps - back
        return moved if self.kernel else moved[:, :, 0, 0]

    def _bound(self, *effective: Tensor) -> float:
        """sqrt(1 + 4 kappa max(kappa - 1, 0)), kappa the least with W W^T <= kappa T of the rounded tensors.

        For a slope D in [0, 1] of the relu, with S = T^-1: J^T J = I - 4 W^T S D W + 4 W^T S D (W W^T) D S W is at most
        I - 4 W^T S (D - kappa D^2) W, so at most I + 4 (kappa - 1) W^T S W where kappa > 1, and W^T S W <= kappa. A
        diagonal that dominates by the row sums of |W W^T| weighted by *any* q > 0 dominates: q may be rounded.
        """
        weight, scale, q = effective
        terms = weight[0].numel() * (2 * max(self.kernel, 1) - 1) ** 2 * len(weight)
        products = _row_sums(weight.abs(), q)
        kappa = float(((_row_sums(weight, q) + 4 * (terms + 16) * UNIT * products) * scale / 2).max()) * (1 + 8 * UNIT)
        return 1.0 if kappa <= 1 else math.sqrt(1 + 4 * kappa * (kappa - 1)) * (1 + 4 * UNIT)


def _row_sums(weight: Tensor, q: Tensor) -> Tensor:
    """(hidden,) sums over j and all offsets of |W W^T|_ij q_j / q_i, of a kernel (hidden, channels, k, k)."""
    correlation = functional.conv2d(weight, weight, padding=weight.shape[2] - 1).abs().sum((2, 3))
    return correlation @ q / q
