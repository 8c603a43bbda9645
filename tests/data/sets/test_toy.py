import math

import pytest
import torch

from corral.data import Images, load


def distance_to_circle(points: torch.Tensor, centre: tuple[float, float], radius: float) -> torch.Tensor:
    return ((points - torch.tensor(centre, dtype=points.dtype)).norm(dim=1) - radius).abs()


def distance_to_half_circle(points: torch.Tensor, centre: tuple[float, float], side: float) -> torch.Tensor:
    """Distance to the half circle of radius 0.3 whose points have side × (y - centre y) >= 0."""
    offsets = (points - torch.tensor(centre, dtype=points.dtype)) * side
    arc = (offsets.norm(dim=1) - 0.3).abs()
    ends = torch.stack([(offsets - torch.tensor([end, 0.0])).norm(dim=1) for end in (-0.3, 0.3)]).amin(0)
    return torch.where(offsets[:, 1] >= 0, arc, ends)


def points_of(images: Images, label: int) -> torch.Tensor:
    return images.pixels[images.labels == label].flatten(1).double()


@pytest.mark.parametrize(("name", "gap"), [("toy-moons", 0.09), ("toy-circles", 0.14)])
def test_the_classes_are_as_far_apart_as_the_closed_form_says(name: str, gap: float) -> None:
    data = load(name)
    for part in (data.train, data.test):
        assert part.pixels.shape == (1000, 2, 1, 1)
        assert part.pixels.dtype == torch.float32
        assert torch.bincount(part.labels).tolist() == [500, 500]
    everything = [torch.cat([points_of(part, label) for part in (data.train, data.test)]) for label in (0, 1)]
    nearest = float(torch.cdist(*everything, compute_mode="donot_use_mm_for_euclid_dist").min())
    assert gap - 1e-6 < nearest < gap + 0.04
    assert 0 < float(torch.cat(everything).min()) < float(torch.cat(everything).max()) < 1


def test_points_lie_within_the_noise_of_their_curve() -> None:
    moons, circles = load("toy-moons"), load("toy-circles")
    distances = [
        distance_to_half_circle(points_of(moons.train, 0), (0.35, 0.425), 1.0),
        distance_to_half_circle(points_of(moons.train, 1), (0.65, 0.575), -1.0),
        distance_to_circle(points_of(circles.train, 0), (0.5, 0.5), 0.4),
        distance_to_circle(points_of(circles.train, 1), (0.5, 0.5), 0.2),
    ]
    for distance in distances:
        assert float(distance.max()) <= 0.03 + 1e-6
        assert float(distance.max()) > 0.025


def test_angles_are_spread_evenly() -> None:
    """Mean direction of 500 uniform angles: below 4 standard deviations, sqrt(1 / 2 / 500) a coordinate."""
    for label in (0, 1):
        offsets = points_of(load("toy-circles").train, label) - 0.5
        mean = (offsets / offsets.norm(dim=1, keepdim=True)).mean(0)
        assert float(mean.abs().max()) < 4 * math.sqrt(1 / 1000)


def test_the_points_are_always_the_same_and_differ_between_the_parts() -> None:
    data = load("toy-moons")
    assert data.fingerprint == load("toy-moons").fingerprint
    assert data.fingerprint != load("toy-circles").fingerprint
    assert not torch.equal(data.train.pixels, data.test.pixels)
