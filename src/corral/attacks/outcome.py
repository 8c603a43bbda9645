"""What an attack returns inside corral: images, which of them fell, when, and what it cost."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """The result of one attack on a batch of N images.

    Attributes:
        x_adv: like the images: a misclassified point of the ball where one was found, else the strongest point met.
        broken: (N,) bool, whether the model misclassifies `x_adv` (of a targeted attack: classifies it as its target),
            by the pass that found it.
        step: (N,) int64, the pass (of a gradient attack) or query at which the image fell, counted from 1 over all
            restarts and targets; 0 where it is misclassified without attack, -1 where it stands.
        forwards: images that went forward through the model, summed over all passes.
        backwards: images that went backward.
    """

    x_adv: Tensor
    broken: Tensor
    step: Tensor
    forwards: int
    backwards: int

    @classmethod
    def nothing(cls, x: Tensor) -> "Outcome":
        """Of an attack on no images; `x` (0, ...)."""
        none = torch.zeros(0, dtype=torch.bool, device=x.device)
        return cls(x.clone(), none, none.long(), 0, 0)


def fallen(logits: Tensor, y: Tensor, targeted: bool) -> Tensor:
    """(N,) bool, which images an attack is done with: misclassified, or, where it is targeted, classified as y."""
    reached = logits.argmax(1) == y
    return reached if targeted else ~reached
