"""Optimisers by the name that a recipe calls them."""

from typing import Any

import torch

from corral.training.lars import TRUST, Lars
from corral.training.recipe import TrainingConfig


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
