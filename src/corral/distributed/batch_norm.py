"""BatchNorm over the rows of all processes: whatever layer calls `torch.nn.functional.batch_norm`, on any device.

Not torch.nn.SyncBatchNorm: it refuses a CPU's tensors, and takes the place of layers one by one, also of those that a
network of a user's own, or dual BatchNorm, derives from it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from corral.distributed import ranks


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
        normalised, mean, variance, total = _BatchNorm.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((variance * total / (total - 1)).to(running_var.dtype), momentum)
    found: Tensor = normalised
    return found


class _BatchNorm(torch.autograd.Function):
    """Normalised rows, mean, variance and number of all; dx = w s (dy - mean(dy) - h mean(dy h)), h = s (x - m)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()
        # The layer's own kernel: var_mean takes three to eleven times as long on a CPU.
        mean, variance = torch.batch_norm_update_stats(wide, None, None, 0.0)
        slots = wide.new_zeros(ranks.size(), 3, x.shape[1])
        slots[ranks.rank()] = torch.stack([mean, variance, torch.full_like(mean, x.numel() / x.shape[1])])
        means, variances, counts = ranks.summed(slots).unbind(1)
        total = counts.sum(0)
        shares = counts / total
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), total)
        ctx.mark_non_differentiable(mean, variance, total)
        ctx.has_bias = bias is not None
        scale, shift = (None if one is None else one.to(wide.dtype) for one in (weight, bias))
        return F.batch_norm(wide, mean, variance, scale, shift, False, 0.0, eps).to(x.dtype), mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, total = ctx.saved_tensors
        dy, wide = (one.to(mean.dtype) for one in (gradients[0], x))
        # The sums of dy x^ and of dy, by the kernel of the layer's own weights.
        _, products, sums = torch.ops.aten.native_batch_norm_backward(
            dy, wide, None, None, None, mean, inverse, True, 0.0, [False, True, True]
        )
        all_products, all_sums = ranks.summed(torch.stack([products, sums]))
        scale = inverse if weight is None else inverse * weight.to(mean.dtype)
        slope = -scale * inverse * all_products / total
        shift = -scale * all_sums / total - slope * mean
        shape = (1, -1, *[1] * (x.dim() - 2))
        dx = torch.addcmul(shift.view(shape), dy, scale.view(shape)).addcmul_(wide, slope.view(shape))
        own = None if weight is None else products.to(weight.dtype)
        return dx.to(x.dtype), own, sums.to(mean.dtype) if ctx.has_bias else None, None
