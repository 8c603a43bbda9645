"""Points on two curves in the unit square, with noise of bounded size, so that the gap between the classes is known."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from corral.data.images import DataSet, Images

COUNT = 1000
SEEDS = {"train": 0, "test": 1}
# Every point lies within this distance of its class's curve.
NOISE_RADIUS = 0.03
CENTRE = (0.5, 0.5)


def two_curves(name: str, classes: tuple[str, str], curves: Callable[[Tensor, Tensor], Tensor]) -> DataSet:
    """1,000 points to train and 1,000 to test, (N, 2, 1, 1) float32 in [0, 1]^2, half of each class.

    Args:
        name: of the data set.
        classes: of the two curves.
        curves: (N, 2) points at (N,) places in [0, 1) along the curves of (N,) labels.
    """
    train, test = (_draw(curves, seed) for seed in SEEDS.values())
    return DataSet(name, classes, train, test, note="drawn from a fixed seed")


def _draw(curves: Callable[[Tensor, Tensor], Tensor], seed: int) -> Images:
    """Points on the curves at even random places, moved by noise that is uniform in a disc."""
    generator = torch.Generator().manual_seed(seed)
    place, angle, share = torch.rand(3, COUNT, generator=generator, dtype=torch.float64)
    labels = torch.arange(COUNT) % 2
    noise = NOISE_RADIUS * share.sqrt().unsqueeze(1) * on_circle(2 * math.pi * angle)
    points = curves(place, labels) + noise
    return Images(points.float().view(COUNT, 2, 1, 1), labels)


def on_circle(angle: Tensor) -> Tensor:
    """(N, 2) points of the unit circle."""
    return torch.stack([angle.cos(), angle.sin()], 1)
