"""Optimisers by the name that a recipe calls them."""

from typing import Any

import torch

from corral.training.ingredients.lars import TRUST, Lars
from corral.training.recipes.recipe import TrainingConfig


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
