"""Optimisers by the name that a recipe calls them, and the course of their learning rate."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from corral.training.recipes.recipe import TrainingConfig

# You et al. 2017's trust coefficient; libraries differ in theirs.
TRUST = 1e-3
# The share of the epochs at which a one-cycle rate is largest (Wong et al. 2020).
PEAK = 0.4


def make_optimiser(groups: list[dict[str, Any]], training: TrainingConfig) -> torch.optim.Optimizer:
    """The recipe's optimiser.

    Args:
        groups: of parameters, each with its `lr` and `weight_decay`.
        training: names the optimiser, its momentum and LARS's trust coefficient.
    """
    if training.optimiser == "adam":
        return torch.optim.Adam(groups)
    if training.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum)
    trust = TRUST if training.trust is None else training.trust
    return Lars(groups, momentum=training.momentum, trust=trust, clipped=training.optimiser == "lars-clipped")


def state_names(optimiser: torch.optim.Optimizer) -> frozenset[str]:
    """What the optimiser keeps of every parameter that it has moved, by the names in its state."""
    if isinstance(optimiser, torch.optim.Adam):
        return frozenset({"step", "exp_avg", "exp_avg_sq"})
    if isinstance(optimiser, Lars):
        return frozenset({"velocity"})
    return frozenset({"momentum_buffer"} if optimiser.param_groups[0]["momentum"] > 0 else ())


# Not torch.optim.lr_scheduler: those count steps, of which an epoch has as many as its method draws, and keep a state
# that a resumed run would have to restore. Over the recipes' 18 schedules their rates differ from these at 73% of the
# steps, by up to 2e-15 of the rate (tests/training/test_schedules.py): no run on record could be made again.
def schedule(training: TrainingConfig, epochs: float) -> float:
    """The learning rate's factor after `epochs` (a fraction counts) of the main phase."""
    rising = training.warm_up or 0
    if training.schedule == "one-cycle" and training.warm_up is None:
        return interpolated([[0.0, 0.0], [PEAK, 1.0], [1.0, 0.0]], epochs / training.epochs)
    if training.schedule == "piecewise":
        return interpolated(training.points, epochs / training.epochs)
    if epochs < rising:
        return epochs / rising
    if training.schedule == "one-cycle":
        return (training.epochs - epochs) / (training.epochs - rising)
    if training.schedule == "cosine":
        return (1 + math.cos(math.pi * (epochs - rising) / (training.epochs - rising))) / 2
    if training.schedule == "steps":
        return float(0.1 ** sum(int(epochs) >= milestone for milestone in training.milestones))
    return 1.0


def interpolated(points: Sequence[Sequence[float]], at: float) -> float:
    """The value at a place of straight lines through (place, value), of rising places; outside, that of the end."""
    places, values = zip(*points, strict=True)
    after = bisect_right(places, at)
    if after in (0, len(points)):
        return float(values[0 if after == 0 else -1])
    share = (at - places[after - 1]) / (places[after] - places[after - 1])
    return float(values[after - 1] + share * (values[after] - values[after - 1]))


class Lars(torch.optim.Optimizer):
    """LARS: v <- momentum v + lr r (g + b w), w <- w - v, with r = trust |w| / (|g| + b |w|) (You et al. 2017).

    Where w or g is zero, r = 1. Own code: pytorch-optimizer's leaves out biases and does not bound the step.

    Args:
        groups: of parameters, each with its `lr` and `weight_decay` b.
        momentum: in [0, 1).
        trust: above 0.
        clipped: as solo-learn trains SimCLR: r is at most lr, in lr's stead (min(r / lr, 1)), tensors of one dimension,
            biases and BatchNorm's, take plain steps without decay, and the learning rate is outside the momentum,
            as in PyTorch's SGD. False: every tensor, the learning rate inside, as in ACL's code.
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

    def _scaled(self, parameter: Tensor, learning_rate: float, decay: float) -> Tensor:
        """r (g + b w)."""
        gradient = parameter.grad
        assert gradient is not None
        if self.clipped and parameter.dim() <= 1:
            return gradient
        own, slope = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(gradient)
        ratio = self.trust * own / (slope + decay * own)
        if self.clipped:
            ratio = (ratio / learning_rate).clamp_max(1) if learning_rate > 0 else torch.ones_like(ratio)
        # A tensor and not a branch: the device is not waited for.
        ratio = torch.where((own > 0) & (slope > 0), ratio, torch.ones_like(ratio))
        return ratio * gradient.add(parameter, alpha=decay)
