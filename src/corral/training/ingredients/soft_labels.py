"""Soft labels: those of a batch, smoothed (Szegedy et al. 2016) and mixed of two images (CutMix, Yun et al. 2019)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class SoftLabels:
    """What a cross-entropy is taken of in the place of labels.

    Attributes:
        smoothing: a in [0, 1): the label has 1 - a, and all classes, it too, share a equally.
        mixed: of the current batch, (n,) the labels of the images that were mixed in, and (n,) their shares in [0, 1];
            None where none were.
    """

    smoothing: float = 0.0
    mixed: tuple[Tensor, Tensor] | None = None

    def of(self, y: Tensor, classes: int) -> Tensor:
        """(n,) labels as they are, or (n, classes) float32 probabilities where anything softens them."""
        if self.smoothing == 0 and self.mixed is None:
            return y
        found = F.one_hot(y, classes).float()
        if self.mixed is not None:
            others, shares = self.mixed
            found = torch.lerp(found, F.one_hot(others, classes).float(), shares.unsqueeze(1).to(found))
        return found * (1 - self.smoothing) + self.smoothing / classes
