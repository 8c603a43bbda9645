"""The rule "fuzzy": memberships of fuzzy c-means as Bezdek writes them, their limits, and what is refused for them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles import memberships
from torch.nn import functional

from corral.certify import head_radius
from corral.errors import UsageError
from corral.geometry import membership_scores
from corral.models import ClusterHead


def problem(n=8, d=5, clusters=(2, 1, 3), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.tensor([label for label, count in enumerate(clusters) for _ in range(count)])
    features = torch.randn(n, d, generator=generator, dtype=dtype)
    centroids = torch.randn(len(classes), d, generator=generator, dtype=dtype)
    return features, centroids, classes


@settings(max_examples=40, deadline=None)
@given(m=st.sampled_from([1.3, 2.0, 4.0]), variance=st.sampled_from([1e-3, 1.0, 50.0]), seed=st.integers(0, 2**32))
def test_probabilities_are_sums_of_a_class_s_memberships_whatever_the_variance(m, variance, seed):
    features, centroids, classes = problem(seed=seed)
    head = ClusterHead(centroids, classes, variance, rule="fuzzy", temperature=m - 1)
    found = head.probabilities(features)
    expected = memberships(features, centroids, classes, m)
    torch.testing.assert_close(expected.sum(1), torch.ones(len(features), dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-5)


def test_the_floor_is_all_that_parts_the_scores_from_the_formula():
    features, centroids, _ = problem()
    exact = -torch.cdist(features, centroids).square().log()
    torch.testing.assert_close(membership_scores(features, centroids).softmax(1), exact.softmax(1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_centroid_its_class_has_all_and_scores_and_gradients_are_finite(dtype):
    _, centroids, classes = problem(d=64, dtype=dtype)
    for shift in (0.0, 100.0):  # where the difference of squares rounds, too
        points = (centroids + shift).requires_grad_()
        head = ClusterHead(centroids + shift, classes, 1.0, rule="fuzzy")
        logits = head(points)
        functional.cross_entropy(logits, classes.roll(1)).backward()
        assert bool(torch.isfinite(logits).all())
        assert bool(torch.isfinite(points.grad).all())
        own = logits.softmax(1)[torch.arange(len(classes)), classes]
        assert float(own.detach().min()) > 0.999


def test_all_points_and_centroids_at_one_place_have_equal_memberships():
    points = torch.zeros(4, 3, requires_grad=True)
    head = ClusterHead(torch.zeros(6, 3), torch.arange(6) % 3, 1.0, rule="fuzzy")
    probabilities = head.probabilities(points)
    probabilities[:, 0].log().sum().backward()
    torch.testing.assert_close(probabilities.detach(), torch.full((4, 3), 1 / 3))
    assert bool(torch.isfinite(points.grad).all())


def test_fuzzifiers_near_one_decide_as_the_nearest_and_large_ones_by_the_number_of_clusters():
    features, centroids, classes = problem(n=200)
    nearest = ClusterHead(centroids, classes, 1.0, rule="nearest")(features).argmax(1)
    hard = ClusterHead(centroids, classes, 1.0, rule="fuzzy", temperature=1e-4)(features)
    assert torch.equal(hard.argmax(1), nearest)
    assert float(hard.softmax(1).amax(1).quantile(0.1)) > 0.999
    flat = ClusterHead(centroids, classes, 1.0, rule="fuzzy", temperature=1e6).probabilities(features)
    torch.testing.assert_close(flat, torch.tensor([[2, 1, 3]]).double().expand(200, 3) / 6, rtol=1e-4, atol=0)


def test_with_two_clusters_it_decides_as_the_soft_rule():
    """Both are increasing in d_2 / d_1 or d_2 - d_1, and 1/2 on the bisector."""
    features, centroids, classes = problem(n=200, clusters=(1, 1))
    fuzzy, soft = (ClusterHead(centroids, classes, 0.5, rule=rule)(features) for rule in ("fuzzy", "soft"))
    assert torch.equal(fuzzy.argmax(1), soft.argmax(1))
    assert 20 < int(fuzzy.argmax(1).sum()) < 180


@pytest.mark.parametrize("scale", [1e-4, 0.1, 7.0, 1e4])
def test_scaling_and_moving_features_and_centroids_changes_nothing(scale):
    features, centroids, classes = problem(dtype=torch.float32)

    def probabilities(factor, shift):
        head = ClusterHead(centroids * factor + shift, classes, 1.0, rule="fuzzy")
        return head.probabilities(features * factor + shift)

    torch.testing.assert_close(probabilities(scale, 0.0), probabilities(1.0, 0.0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(probabilities(scale, 3 * scale), probabilities(1.0, 0.0), rtol=1e-4, atol=1e-6)


def test_gradients_are_the_numerical_ones_and_the_temperature_is_the_fuzzifier():
    features, centroids, classes = problem(n=3)
    head = ClusterHead(centroids, classes, 1.0, rule="fuzzy", temperature=0.7)
    head.log_temperature.requires_grad_(True)

    def log_probabilities(features, centroids, log_temperature):
        moved = head.with_centroids(centroids, head.variance)
        moved._parameters = {"log_temperature": log_temperature}
        return moved(features).log_softmax(1)

    inputs = (features.requires_grad_(), head.log_temperature.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda f, t: log_probabilities(f, centroids, t), inputs)


def test_it_has_no_radius():
    features, centroids, classes = problem()
    head = ClusterHead(centroids, classes, 1.0, rule="fuzzy")
    with pytest.raises(UsageError, match='rule "fuzzy" has no certificate'):
        head_radius(head, features)
