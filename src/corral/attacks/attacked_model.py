"""The model that attacks are bound to, with what is known of its training."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from corral.attacks.objectives import RELEASED, Released
from corral.attacks.training_loss import TrainingLoss
from corral.errors import UsageError


def _unknown() -> TrainingLoss:
    raise UsageError(
        "the loss that the model was trained with is not known, and this attacks it: name a run of corral, whose "
        "method knows it, or choose another protocol or attack"
    )


@dataclass(frozen=True)
class AttackedModel:
    """A model to attack.

    Attributes:
        model: any module from float [0, 1] images to (N, C) logits; attacks that know its head ask it.
        classes: number of its classes.
        training_loss: gives the loss that it was trained with; raises UsageError where nobody knows it.
        released: what its recipe has in the place of the released ClusTR code's own numbers.
    """

    model: nn.Module
    classes: int
    training_loss: Callable[[], TrainingLoss] = _unknown
    released: Released = RELEASED
