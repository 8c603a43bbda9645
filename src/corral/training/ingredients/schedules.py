"""The learning rate's course over a run."""

import math

from corral.training.recipes.recipe import TrainingConfig


# Not torch.optim.lr_scheduler: those count steps, of which an epoch has as many as its method draws, and keep a state
# that a resumed run would have to restore. Over the recipes' 18 schedules their rates differ from these at 73% of the
# steps, by up to 2e-15 of the rate (tests/training/test_schedules.py): no run on record could be made again.
def schedule(training: TrainingConfig, epochs: float) -> float:
    """The learning rate's factor after `epochs` (a fraction counts) of the main phase."""
    rising = training.warm_up or 0
    if epochs < rising:
        return epochs / rising
    if training.schedule == "cosine":
        return (1 + math.cos(math.pi * (epochs - rising) / (training.epochs - rising))) / 2
    if training.schedule == "steps":
        return float(0.1 ** sum(int(epochs) >= milestone for milestone in training.milestones))
    return 1.0
