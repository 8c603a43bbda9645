"""Optimisers by the name that a recipe calls them."""

from typing import Any

import torch

from corral.errors import CorralError
from corral.training.recipe import TrainingConfig

# You et al. 2017's trust coefficient; libraries differ in theirs.
TRUST = 1e-3


def make_optimiser(groups: list[dict[str, Any]], training: TrainingConfig) -> torch.optim.Optimizer:
    """The recipe's optimiser.

    Args:
        groups: of parameters, each with its `lr` and `weight_decay`.
        training: names the optimiser, its momentum and LARS's trust coefficient.

    Raises:
        CorralError: LARS without the package that has it.
    """
    if training.optimiser == "adam":
        return torch.optim.Adam(groups)
    if training.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum)
    try:
        from pytorch_optimizer import LARS
    except ImportError as error:
        raise CorralError("optimiser 'lars' needs pytorch-optimizer: pip install 'corral[contrastive]'") from error
    trust = TRUST if training.trust is None else training.trust
    made: torch.optim.Optimizer = LARS(
        groups, lr=training.learning_rate, momentum=training.momentum, trust_coefficient=trust
    )
    return made
