"""LARS (You et al. 2017): SGD whose rate is each tensor's own, in the two forms that contrastive learning uses.

No library that installs here has both: pytorch-optimizer's leaves out biases and does not bound the rate.
"""

from typing import Any

import torch
from torch import Tensor

# You et al. 2017's trust coefficient; libraries differ in theirs.
TRUST = 1e-3


class Lars(torch.optim.Optimizer):
    """v <- momentum v + lr r (g + b w), w <- w - v, with r = trust |w| / (|g| + b |w|) (You et al. 2017, Algorithm 1).

    Where w or g is zero, r = 1.

    Args:
        groups: of parameters, each with its `lr` and `weight_decay` b.
        momentum: in [0, 1).
        trust: above 0.
        clipped: as solo-learn trains SimCLR: r is at most lr, in lr's stead (min(r / lr, 1)), tensors of one dimension,
            biases and BatchNorm's, take plain steps without decay, and the rate is outside the momentum, as in
            PyTorch's SGD. False: every tensor, the rate inside, as in ACL's code.
    """

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float, trust: float, clipped: bool) -> None:
        super().__init__(groups, {"momentum": momentum})
        self.trust, self.clipped = trust, clipped

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if not state:
                        state["velocity"] = torch.zeros_like(parameter)
                    velocity = state["velocity"]
                    inside, outside = (1.0, group["lr"]) if self.clipped else (group["lr"], 1.0)
                    scaled = self._scaled(parameter, group["lr"], group["weight_decay"])
                    velocity.mul_(group["momentum"]).add_(scaled, alpha=inside)
                    parameter.sub_(velocity, alpha=outside)

    def _scaled(self, parameter: Tensor, rate: float, decay: float) -> Tensor:
        """r (g + b w)."""
        gradient = parameter.grad
        assert gradient is not None
        if self.clipped and parameter.dim() <= 1:
            return gradient
        own, slope = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(gradient)
        ratio = self.trust * own / (slope + decay * own)
        if self.clipped:
            ratio = (ratio / rate).clamp_max(1) if rate > 0 else torch.ones_like(ratio)
        # A tensor and not a branch: the device is not waited for.
        ratio = torch.where((own > 0) & (slope > 0), ratio, torch.ones_like(ratio))
        return ratio * gradient.add(parameter, alpha=decay)
