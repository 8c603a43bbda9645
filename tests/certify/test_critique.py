"""Eq. 3 of the critique, and the radius that holds where the published one does not."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.certify import critique_bounds


def configuration(seed, clusters, classes, dimension, scale):
    generator = torch.Generator().manual_seed(seed)
    centroids = scale * torch.randn(clusters * classes, dimension, generator=generator, dtype=torch.float64)
    features = scale * torch.randn(12, dimension, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (12,), generator=generator)
    return features, labels, centroids, torch.arange(clusters * classes) % classes


CONFIGURATIONS = {
    "seed": st.integers(0, 10_000),
    "clusters": st.integers(1, 4),
    "classes": st.integers(2, 6),
    "dimension": st.integers(1, 8),
    "scale": st.sampled_from([1e-3, 1.0, 1e3]),
}


@given(**CONFIGURATIONS)
@settings(max_examples=200, deadline=None)
def test_the_published_radius_lies_within_the_bounds_of_eq_3(seed, clusters, classes, dimension, scale):
    """For features that their own class is nearest to; for others the sign turns and so does the inequality."""
    found = critique_bounds(*configuration(seed, clusters, classes, dimension, scale))
    right, slack = found.lower > 0, 1e-9 * scale
    assert bool((found.lower <= found.pair_unsound + slack)[right].all())
    assert bool((found.pair_unsound <= found.upper + slack)[right].all())
    assert bool((found.pair_unsound.sign() == found.lower.sign()).all())


@given(**CONFIGURATIONS)
@settings(max_examples=60, deadline=None)
def test_no_point_within_the_sound_radius_changes_class(seed, clusters, classes, dimension, scale):
    """Dense directions, and straight at every rival: the nearest centroid stays one of the own class."""
    features, labels, centroids, own = configuration(seed, clusters, classes, dimension, scale)
    found = critique_bounds(features, labels, centroids, own)
    generator = torch.Generator().manual_seed(seed + 1)
    for feature, label, radius in zip(features, labels, found.sound, strict=True):
        if radius <= 0:
            continue
        nearest = centroids[own == label][(centroids[own == label] - feature).norm(dim=1).argmin()]
        directions = torch.cat(
            [torch.randn(200, dimension, generator=generator, dtype=torch.float64), centroids[own != label] - nearest]
        )
        directions = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-300)
        for share in (0.5, 1 - 1e-9):
            points = feature + share * radius * directions
            decided = own[torch.cdist(points, centroids, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)]
            assert bool((decided == label).all())


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6), dimension=st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_with_one_cluster_a_class_the_sound_radius_is_the_nearest_bisector(seed, classes, dimension):
    features, labels, centroids, own = configuration(seed, 1, classes, dimension, 1.0)
    found = critique_bounds(features, labels, centroids, own)
    for feature, label, radius in zip(features.tolist(), labels.tolist(), found.sound.tolist(), strict=True):
        mine = centroids[label].tolist()
        expected = min(
            (math.dist(feature, other) ** 2 - math.dist(feature, mine) ** 2) / (2 * math.dist(mine, other))
            for place, other in enumerate(centroids.tolist())
            if place != label
        )
        assert radius == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_counterexample_to_the_papers_shortcut():
    """Three classes in the plane: the second nearest centroid is not the one whose bisector is nearest."""
    centroids = torch.tensor([[-1.0, 0.0], [0.0, 1.5], [1.55, 0.0]])
    found = critique_bounds(torch.zeros(1, 2), torch.tensor([0]), centroids, torch.arange(3))
    assert float(found.pair_unsound) == pytest.approx((1.5**2 - 1) / (2 * math.sqrt(1 + 1.5**2)), rel=1e-6)
    assert float(found.sound) == pytest.approx((1.55**2 - 1) / (2 * 2.55), rel=1e-6)
    moved = torch.tensor([[0.3, 0.0]])
    assert float(found.sound) < 0.3 < float(found.pair_unsound)
    assert int(torch.cdist(moved, centroids).argmin()) == 2


def test_more_rivals_can_only_narrow_the_sound_radius():
    features, labels, centroids, classes = configuration(3, 3, 4, 5, 1.0)
    before = critique_bounds(features, labels, centroids, classes).sound
    rivals = torch.cat([centroids, features + 0.01]), torch.cat([classes, torch.full_like(labels, 4)])
    after = critique_bounds(features, labels, *rivals).sound
    assert bool((after <= before + 1e-12).all())
    assert bool((after < before).any())


@pytest.mark.parametrize(
    ("labels", "centroids", "classes", "words"),
    [
        ([2], [[0.0], [1.0]], [0, 1], "every label needs a centroid of its class"),
        ([0], [[0.0], [1.0]], [0, 0], "at least two classes"),
        ([0], [[1.0], [1.0]], [0, 1], "centroids of different classes are equal"),
    ],
)
def test_what_has_no_bounds_is_refused(labels, centroids, classes, words):
    with pytest.raises(ValueError, match=words):
        critique_bounds(torch.zeros(1, 1), torch.tensor(labels), torch.tensor(centroids), torch.tensor(classes))
