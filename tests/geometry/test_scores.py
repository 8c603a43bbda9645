"""Log-space scores against Eq. 4 as it is written, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles import class_probabilities
from torch import Tensor

from corral.geometry import Rule, class_index, class_scores, cluster_scores, squared_distances


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def case(ks: list[int], rows: int, width: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = seeded(seed)
    classes = torch.cat([torch.full((k,), label) for label, k in enumerate(ks)])
    classes = classes[torch.randperm(len(classes), generator=generator)]
    centroids = spread * torch.randn(len(classes), width, generator=generator, dtype=torch.float64)
    points = spread * torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return points, centroids, classes


rules = st.one_of(st.sampled_from(["soft", "nearest"]), st.integers(1, 14))
unequal = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(unequal, st.integers(1, 4), st.floats(0.3, 20), rules, st.integers(0, 10**6))
def test_softmax_of_scores_is_equation_4(ks: list[int], width: int, variance: float, rule: Rule, seed: int) -> None:
    points, centroids, classes = case(ks, 5, width, seed)
    logits = class_scores(cluster_scores(points, centroids, variance), class_index(classes), rule)
    expected = class_probabilities(points, centroids, classes, variance, rule)
    torch.testing.assert_close(logits.softmax(1), expected, rtol=1e-9, atol=1e-12)
    if rule == "soft":
        # Beyond the probabilities: the differences of log-scores themselves.
        distances = squared_distances(points, centroids)
        exact = torch.stack([(-distances[:, classes == c] / (2 * variance)).logsumexp(1) for c in range(len(ks))], 1)
        torch.testing.assert_close(logits - logits[:, :1], exact - exact[:, :1], rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(unequal, rules, st.integers(0, 10**6), st.sampled_from([1.0, 1e3, 1e6]))
def test_translation_and_rotation_change_nothing(ks: list[int], rule: Rule, seed: int, offset: float) -> None:
    points, centroids, classes = case(ks, 4, 3, seed)
    index = class_index(classes)
    shift = offset * torch.randn(3, generator=seeded(seed), dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=seeded(seed + 1), dtype=torch.float64))
    plain = class_scores(cluster_scores(points, centroids, 1.5), index, rule).softmax(1)
    moved = class_scores(cluster_scores(points @ turn + shift, centroids @ turn + shift, 1.5), index, rule)
    torch.testing.assert_close(moved.softmax(1), plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rule", ["soft", "nearest", 1, 3, 100])
@pytest.mark.parametrize("norm", [1e-4, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("variance", [1e-6, 1.0, 1e6])
def test_values_and_gradients_are_finite_in_float32(rule: Rule, norm: float, variance: float) -> None:
    generator = seeded(1)
    classes = torch.tensor([0, 0, 1, 2, 2, 2])
    directions = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator))
    points = (norm * directions).requires_grad_()
    centroids = (norm * torch.nn.functional.normalize(torch.randn(6, 16, generator=generator))).requires_grad_()
    sigma = torch.tensor(variance, requires_grad=True)
    logits = class_scores(cluster_scores(points, centroids, sigma), class_index(classes), rule)
    assert bool(logits.isfinite().all())
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(8) % 3)
    assert bool(loss.isfinite())
    for gradient in torch.autograd.grad(loss, (points, centroids, sigma)):
        assert bool(gradient.isfinite().all())


def test_gradient_survives_where_the_exponentials_underflow() -> None:
    # exp(-1e8) is 0 in every precision; the log-space gradient is the difference of centroids over the variance.
    points = torch.tensor([[1e4, 0.0]], dtype=torch.float64, requires_grad=True)
    centroids = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    logits = class_scores(cluster_scores(points, centroids, 0.5), class_index(torch.tensor([0, 1])))
    (gradient,) = torch.autograd.grad(logits[0, 0] - logits[0, 1], points)
    torch.testing.assert_close(gradient, torch.tensor([[2.0, -2.0]], dtype=torch.float64))


@pytest.mark.parametrize("rule", ["soft", "nearest", 2])
def test_gradients_are_those_of_finite_differences(rule: Rule) -> None:
    points, centroids, classes = case([1, 2, 2], 3, 3, 4)
    index = class_index(classes)
    variance = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def log_probabilities(points: Tensor, centroids: Tensor, variance: Tensor) -> Tensor:
        # The scores are defined up to a term common to all clusters, which no probability sees.
        return class_scores(cluster_scores(points, centroids, variance), index, rule).log_softmax(1)

    assert torch.autograd.gradcheck(log_probabilities, (points.requires_grad_(), centroids.requires_grad_(), variance))


def test_classes_outside_the_nearest_clusters_get_no_probability_and_keep_a_gradient() -> None:
    points, centroids, classes = case([2, 2, 2], 20, 4, 6)
    points.requires_grad_()
    logits = class_scores(cluster_scores(points, centroids, 1.0), class_index(classes), 2)
    nearest = squared_distances(points, centroids).argsort(1)[:, :2]
    inside = torch.zeros(20, 3, dtype=torch.bool).scatter_(1, classes[nearest], True)
    assert bool((logits.softmax(1)[~inside] == 0).all())
    assert bool((logits.softmax(1)[inside] > 0).all())
    (gradient,) = torch.autograd.grad(logits[~inside].sum(), points)
    assert bool((gradient.abs().sum(1) > 0).all())


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 999), st.sampled_from([0.0, 1e6]))
def test_squared_distances_are_sums_of_squares(rows: int, count: int, width: int, seed: int, offset: float) -> None:
    points = torch.randn(rows, width, generator=seeded(seed)) + offset
    centroids = torch.randn(count, width, generator=seeded(seed + 1)) + offset
    expected = (points.double().unsqueeze(1) - centroids.double()).square().sum(2)
    torch.testing.assert_close(squared_distances(points, centroids).double(), expected, rtol=1e-4, atol=1e-4)


def test_class_index_groups_and_pads() -> None:
    assert class_index(torch.tensor([1, 0, 1, 2])).tolist() == [[1, 4], [0, 2], [3, 4]]
    assert class_index(torch.tensor([0, 1]), 2).tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("classes", "num_classes", "message"),
    [([0, 2], None, "class 1 has none"), ([0, 1], 3, "class 2 has none"), ([0, 3], 3, r"\[0, 3\), found 0 to 3")],
)
def test_class_index_names_what_is_wrong(classes: list[int], num_classes: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_index(torch.tensor(classes), num_classes)
