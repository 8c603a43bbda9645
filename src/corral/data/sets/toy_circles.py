"""Two concentric circles in the unit square."""

import math
from pathlib import Path

import torch
from torch import Tensor

from corral.data.images import DataSet
from corral.data.loading.curves import CENTRE, on_circle, two_curves
from corral.data.registry import register_data

OUTER_RADIUS, INNER_RADIUS = 0.4, 0.2


@register_data("toy-circles", description="2,000 points on two circles in the unit square", shape=(2, 1, 1), classes=2)
def load_toy_circles(root: Path | None = None, download: bool = True) -> DataSet:
    """Two concentric circles: (N, 2, 1, 1) float32 points in [0, 1]^2, 1,000 to train and 1,000 to test.

    Class 0 is the circle of radius 0.4 around (0.5, 0.5), class 1 the one of radius 0.2. The noise is at most 0.03, so
    the classes are at least 0.14 apart. The arguments are not used.
    """
    return two_curves("toy-circles", ("outer", "inner"), _circles)


def _circles(place: Tensor, labels: Tensor) -> Tensor:
    """(N, 2) points at `place` in [0, 1) around the circle of their class."""
    radii = torch.where(labels == 0, OUTER_RADIUS, INNER_RADIUS).double().unsqueeze(1)
    return torch.tensor(CENTRE, dtype=torch.float64) + radii * on_circle(2 * math.pi * place)
