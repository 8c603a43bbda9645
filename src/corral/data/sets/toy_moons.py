"""Two interleaved half circles in the unit square."""

import math
from pathlib import Path

import torch
from torch import Tensor

from corral.data.images import DataSet
from corral.data.loading.curves import CENTRE, on_circle, two_curves
from corral.data.registry import register_data

# Each moon is a half circle of this radius; their curves are half a radius apart at the nearest.
MOON_RADIUS = 0.3


@register_data(
    "toy-moons", description="2,000 points on two half circles in the unit square", shape=(2, 1, 1), classes=2
)
def load_toy_moons(root: Path | None = None, download: bool = True) -> DataSet:
    """Two interleaved half circles: (N, 2, 1, 1) float32 points in [0, 1]^2, 1,000 to train and 1,000 to test.

    Class 0 is the upper half circle of radius 0.3 around (0.35, 0.425), class 1 the lower one around (0.65, 0.575).
    The curves are 0.15 apart and the noise is at most 0.03, so the classes are at least 0.09 apart. The arguments are
    not used.
    """
    return two_curves("toy-moons", ("upper", "lower"), _moons)


def _moons(place: Tensor, labels: Tensor) -> Tensor:
    """(N, 2) points at `place` in [0, 1) along the half circle of their class."""
    side = 1 - 2 * labels.double().unsqueeze(1)
    centres = torch.tensor(CENTRE, dtype=torch.float64) - side * torch.tensor([0.5, 0.25]) * MOON_RADIUS
    return centres + side * MOON_RADIUS * on_circle(math.pi * place)
