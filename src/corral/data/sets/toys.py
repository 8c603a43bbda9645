"""Points on two curves in the unit square, with noise of bounded size, so that the gap between the classes is known."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from corral.data.images import DataSet, Images
from corral.data.registry import register_data

COUNT = 1000
SEEDS = {"train": 0, "test": 1}
# Every point lies within this distance of its class's curve.
NOISE_RADIUS = 0.03
CENTRE = (0.5, 0.5)
OUTER_RADIUS, INNER_RADIUS = 0.4, 0.2
# Each moon is a half circle of this radius; their curves are half a radius apart at the nearest.
MOON_RADIUS = 0.3


@register_data("toy-circles", description="2,000 points on two circles in the unit square", shape=(2, 1, 1), classes=2)
def load_toy_circles() -> DataSet:
    """Two concentric circles: (N, 2, 1, 1) float32 points in [0, 1]^2, 1,000 to train and 1,000 to test.

    Class 0 is the circle of radius 0.4 around (0.5, 0.5), class 1 the one of radius 0.2. The noise is at most 0.03, so
    the classes are at least 0.14 apart.
    """

    def circles(place: Tensor, labels: Tensor) -> Tensor:
        radii = torch.where(labels == 0, OUTER_RADIUS, INNER_RADIUS).double().unsqueeze(1)
        return torch.tensor(CENTRE, dtype=torch.float64) + radii * _on_circle(2 * math.pi * place)

    return _two_curves("toy-circles", ("outer", "inner"), circles)


@register_data(
    "toy-moons", description="2,000 points on two half circles in the unit square", shape=(2, 1, 1), classes=2
)
def load_toy_moons() -> DataSet:
    """Two interleaved half circles: (N, 2, 1, 1) float32 points in [0, 1]^2, 1,000 to train and 1,000 to test.

    Class 0 is the upper half circle of radius 0.3 around (0.35, 0.425), class 1 the lower one around (0.65, 0.575).
    The curves are 0.15 apart and the noise is at most 0.03, so the classes are at least 0.09 apart.
    """

    def moons(place: Tensor, labels: Tensor) -> Tensor:
        side = 1 - 2 * labels.double().unsqueeze(1)
        centres = torch.tensor(CENTRE, dtype=torch.float64) - side * torch.tensor([0.5, 0.25]) * MOON_RADIUS
        return centres + side * MOON_RADIUS * _on_circle(math.pi * place)

    return _two_curves("toy-moons", ("upper", "lower"), moons)


def _two_curves(name: str, classes: tuple[str, str], curves: Callable[[Tensor, Tensor], Tensor]) -> DataSet:
    """1,000 points to train and to test, half of each class; `curves` maps places in [0, 1) and labels to points."""
    train, test = (_draw(curves, seed) for seed in SEEDS.values())
    return DataSet(name, classes, train, test, note="drawn from a fixed seed")


def _draw(curves: Callable[[Tensor, Tensor], Tensor], seed: int) -> Images:
    """Points on the curves at even random places, moved by noise that is uniform in a disc."""
    generator = torch.Generator().manual_seed(seed)
    place, angle, share = torch.rand(3, COUNT, generator=generator, dtype=torch.float64)
    labels = torch.arange(COUNT) % 2
    noise = NOISE_RADIUS * share.sqrt().unsqueeze(1) * _on_circle(2 * math.pi * angle)
    points = curves(place, labels) + noise
    return Images(points.float().view(COUNT, 2, 1, 1), labels)


def _on_circle(angle: Tensor) -> Tensor:
    """(N, 2) points of the unit circle."""
    return torch.stack([angle.cos(), angle.sin()], 1)
