"""BatchNorm over the rows of all processes: whatever layer calls `torch.nn.functional.batch_norm`, on any device.

Not torch.nn.SyncBatchNorm: it refuses a CPU's tensors, and takes the place of layers one by one, also of those that a
network of a user's own, or dual BatchNorm, derives from it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from corral.distributed import ranks, rows


class Synchronised(TorchFunctionMode):
    """A block in which batch statistics are those of all processes' rows."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call what was called, but for a BatchNorm of batch statistics."""
        if func is F.batch_norm:
            return batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of (n, C, ...) own rows with the statistics of all processes' rows.

    Mean and variance of the whole are m = sum w_r m_r and sum w_r (v_r + (m_r - m)^2), w_r the share of process r.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    with torch.autocast(x.device.type, enabled=False):
        wide = x if x.dtype == torch.float64 else x.float()
        inside = [0, *range(2, x.dim())]
        variance, mean = torch.var_mean(wide, inside, correction=0)
        slots = wide.new_zeros(ranks.size(), 3, x.shape[1])
        count = wide.new_full(mean.shape, x.numel() / x.shape[1])
        own = torch.nn.functional.one_hot(torch.tensor(ranks.rank()), ranks.size()).to(slots).view(-1, 1, 1)
        means, variances, counts = rows.summed(slots + own * torch.stack([mean, variance, count])).unbind(1)
        total = counts.detach().sum(0)
        shares = counts.detach() / total
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((variance * total / (total - 1)).to(running_var.dtype), momentum)
        scale = (variance + eps).rsqrt() if weight is None else (variance + eps).rsqrt() * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        shape = (1, -1, *[1] * (x.dim() - 2))
        return (wide * scale.view(shape) + shift.view(shape)).to(x.dtype)
