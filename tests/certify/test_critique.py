"""Eq. 3 of the critique: what it encloses, and that its lower end is a certificate."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.certify import critique_bounds, nearest_radius, published_radius_unsound

CONFIGURATIONS = {
    "seed": st.integers(0, 10_000),
    "clusters": st.integers(1, 4),
    "classes": st.integers(2, 6),
    "dimension": st.integers(1, 8),
    "scale": st.sampled_from([1e-3, 1.0, 1e3]),
}


@given(**CONFIGURATIONS)
@settings(max_examples=150, deadline=None)
def test_eq_3_encloses_the_published_radius_and_its_lower_end_is_a_certificate(configuration, scale, **shape):
    clusters = configuration(**shape, scale=scale)
    found, slack = critique_bounds(*clusters), 1e-9 * scale
    published = published_radius_unsound(*clusters)
    assert bool((found.lower <= published + slack).all())
    assert bool((published <= found.upper + slack).all())
    assert bool((found.lower <= nearest_radius(*clusters) + slack).all())


@given(**CONFIGURATIONS)
@settings(max_examples=60, deadline=None)
def test_the_bounds_are_half_the_difference_and_half_the_sum_of_two_distances(configuration, scale, **shape):
    features, centroids, classes = configuration(**shape, scale=scale)
    found = critique_bounds(features, centroids, classes)
    for place, feature in enumerate(features.tolist()):
        distances = [math.dist(feature, centroid) for centroid in centroids.tolist()]
        nearest = min(distances)
        label = int(classes[distances.index(nearest)])
        rival = min(d for d, owner in zip(distances, classes.tolist(), strict=True) if owner != label)
        assert float(found.lower[place]) == pytest.approx((rival - nearest) / 2, rel=1e-9, abs=1e-9 * scale)
        assert float(found.upper[place]) == pytest.approx((rival + nearest) / 2, rel=1e-9, abs=1e-9 * scale)


def test_what_has_no_bounds_is_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        critique_bounds(torch.zeros(1, 1), torch.tensor([[0.0], [1.0]]), torch.tensor([0, 0]))
