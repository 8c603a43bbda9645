"""What an attack returns inside corral: images, for which of them it succeeded, when, and what it cost."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """The result of one attack on a batch of N images.

    Attributes:
        x_adv: like the images: a misclassified point of the ball where one was found, else the strongest point.
        broken: (N,) bool, whether the model misclassifies `x_adv` (of a targeted attack: classifies it as its target),
            by the pass that found it.
        step: (N,) int64, the pass (of a gradient attack) or query that succeeded, counted from 1 over all restarts and
            targets; 0 where the image is misclassified without attack, -1 where the attack failed.
        forwards, backwards: images that went through the model, summed over all passes.
    """

    x_adv: Tensor
    broken: Tensor
    step: Tensor
    forwards: int
    backwards: int

    @classmethod
    def nothing(cls, x: Tensor) -> "Outcome":
        """For an empty batch.

        Args:
            x: (0, C, H, W).
        """
        none = torch.zeros(0, dtype=torch.bool, device=x.device)
        return cls(x.clone(), none, none.long(), 0, 0)


def success(logits: Tensor, y: Tensor, targeted: bool) -> Tensor:
    """(N,) bool, whether an attack succeeded: misclassified, or, where it is targeted, classified as y."""
    reached = logits.argmax(1) == y
    return reached if targeted else ~reached
