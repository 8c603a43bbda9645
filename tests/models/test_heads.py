"""The cluster head against Eq. 4 written out, its rules, its checks, and its life in a training run."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles import class_probabilities
from torch.nn import functional

from corral.models import ClusterHead, LinearHead, feature_variance


def problem(n=7, d=4, clusters=(2, 1, 3), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.tensor([label for label, count in enumerate(clusters) for _ in range(count)])
    classes = classes[torch.randperm(len(classes), generator=generator)]
    features = torch.randn(n, d, generator=generator, dtype=dtype)
    centroids = torch.randn(len(classes), d, generator=generator, dtype=dtype)
    return features, centroids, classes


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 5),
    d=st.integers(1, 5),
    clusters=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    variance=st.floats(0.2, 20),
    temperature=st.floats(0.5, 2),
    seed=st.integers(0, 2**20),
)
def test_probabilities_are_equation_4(n, d, clusters, variance, temperature, seed):
    features, centroids, classes = problem(n, d, clusters, seed)
    head = ClusterHead(centroids, classes, variance, temperature=temperature)
    expected = class_probabilities(features, centroids, classes, variance * temperature)
    torch.testing.assert_close(head.probabilities(features), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(head(features).softmax(1), expected, rtol=1e-9, atol=1e-12)
    assert (head.num_classes, head.features_dim) == (len(clusters), d)


@pytest.mark.parametrize("nearest", [1, 2, 3, 4, 5, 6])
def test_d_nearest_keeps_the_d_nearest_clusters(nearest):
    features, centroids, classes = problem(n=20)
    head = ClusterHead(centroids, classes, 1.3, rule=nearest)
    expected = class_probabilities(features, centroids, classes, 1.3, nearest)
    torch.testing.assert_close(head.probabilities(features), expected, rtol=1e-9, atol=1e-12)


def test_rules_agree_where_they_must():
    features, centroids, classes = problem(n=200)

    def logits(rule, centroids=centroids, classes=classes):
        return ClusterHead(centroids, classes, 0.7, rule=rule)(features)

    assert torch.equal(logits(len(classes)), logits("soft"))
    assert torch.equal(logits(1).argmax(1), logits("nearest").argmax(1))
    one = torch.tensor([2, 0, 1])
    assert torch.equal(logits("soft", centroids[:3], one), logits("nearest", centroids[:3], one))
    nearest = torch.cdist(features, centroids).argmin(1)
    assert torch.equal(logits("nearest").argmax(1), classes[nearest])


def test_equal_variance_and_temperature_are_interchangeable():
    features, centroids, classes = problem()
    by_variance = ClusterHead(centroids, classes, 6.0)(features)
    by_temperature = ClusterHead(centroids, classes, 2.0, temperature=3.0)(features)
    torch.testing.assert_close(by_variance, by_temperature)


@pytest.mark.parametrize("rule", ["soft", "nearest", 2, "fuzzy"])
@pytest.mark.parametrize("variance", [1e-6, 1e-2, 1.0, 1e6])
@pytest.mark.parametrize("norm", [1e-4, 1.0, 1e3, 1e6])
def test_float32_gradients_are_finite_at_extremes(rule, variance, norm):
    features, centroids, classes = problem(n=16, dtype=torch.float32)
    for scale in (1.0, norm):
        points = functional.normalize(features).mul(norm).requires_grad_()
        head = ClusterHead(centroids * scale, classes, variance, rule=rule)
        head.log_temperature.requires_grad_(True)
        logits = head(points)
        functional.cross_entropy(logits, torch.arange(16) % 3).backward()
        assert torch.isfinite(logits).all()
        assert torch.isfinite(points.grad).all()
        assert torch.isfinite(head.log_temperature.grad)


@pytest.mark.parametrize("rule", ["soft", "nearest", 3])
def test_gradients_are_the_numerical_ones(rule):
    features, centroids, classes = problem(n=3)
    head = ClusterHead(centroids, classes, 1.3, rule=rule)
    head.log_temperature.requires_grad_(True)

    # Only differences of logits have a meaning: the part that all classes share is left out, and its gradient too.
    def log_probabilities(features, centroids, variance):
        return head.with_centroids(centroids, variance)(features).log_softmax(1)

    variance = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        log_probabilities, (features.requires_grad_(), centroids.requires_grad_(), variance)
    )


def test_far_points_keep_a_gradient():
    """Where exp(-d^2 / 2 sigma^2) underflows to 0, the log-space scores still tell the direction."""
    _, centroids, classes = problem(dtype=torch.float32)
    far = torch.full((1, 4), 1e3, requires_grad=True)
    functional.cross_entropy(ClusterHead(centroids, classes, 0.1)(far), torch.tensor([1])).backward()
    assert far.grad.abs().sum() > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variance": 0.0}, "variance must be one positive"),
        ({"variance": -1.0}, "variance must be one positive"),
        ({"variance": math.inf}, "variance must be one positive"),
        ({"variance": math.nan}, "variance must be one positive"),
        ({"variance": torch.ones(2)}, "variance must be one positive"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": math.inf}, "temperature must be positive"),
        ({"rule": "softest"}, "rule must be"),
        ({"rule": 0}, "rule must be"),
        ({"rule": 7}, "rule must be"),
        ({"rule": True}, "rule must be"),
        ({"rule": 1.5}, "rule must be"),
        ({"centroids": torch.full((6, 4), math.nan)}, "centroids must be finite"),
        ({"centroids": torch.zeros(6)}, "centroids must be \\(M, d\\) floats"),
        ({"centroids": torch.zeros(0, 4)}, "centroids must be \\(M, d\\) floats"),
        ({"centroids": torch.zeros(6, 4, dtype=torch.long)}, "centroids must be \\(M, d\\) floats"),
        ({"classes": torch.tensor([0, 0, 0, 2, 2, 2])}, "class 1 has none"),
        ({"classes": torch.tensor([0, 1])}, "classes must be \\(6,\\) integers"),
        ({"classes": torch.zeros(6)}, "classes must be \\(6,\\) integers"),
        ({"classes": torch.tensor([0, 1, 2, -1, 0, 0])}, "cluster classes must be in"),
    ],
)
def test_impossible_values_are_refused(change, message):
    _, centroids, classes = problem()
    arguments = {"centroids": centroids, "classes": classes, "variance": 1.0} | change
    with pytest.raises(ValueError, match=message) as caught:
        ClusterHead(**arguments)
    assert "\n" not in str(caught.value)


def test_refit_takes_another_number_of_clusters_and_refuses_other_classes():
    features, centroids, classes = problem()
    head = ClusterHead(centroids, classes, 1.0)
    _, more, more_classes = problem(clusters=(1, 4, 3), seed=5)
    head.refit(more, more_classes, torch.tensor(2.5))
    expected = class_probabilities(features, more, more_classes, 2.5)
    torch.testing.assert_close(head.probabilities(features), expected)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    for bad in (
        (more, torch.zeros_like(more_classes), 1.0),
        (more, more_classes + 1, 1.0),
        (more[:, :2], more_classes, 1.0),
        (more, more_classes, 0.0),
    ):
        with pytest.raises(ValueError):
            head.refit(*bad)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_refit_copies_what_it_is_given():
    features, centroids, classes = problem()
    head = ClusterHead(centroids, classes, 1.0)
    head.refit(centroids, classes, 1.0)
    before = head(features)
    centroids.zero_()
    classes.zero_()
    assert torch.equal(head(features), before)


def test_moved_shares_the_temperature_and_leaves_the_head_alone():
    features, centroids, classes = problem()
    head = ClusterHead(centroids, classes, 1.0)
    before = head(features)
    other = (centroids + 1).requires_grad_()
    moved = head.with_centroids(other, torch.tensor(3.0, dtype=torch.float64))
    torch.testing.assert_close(moved(features), ClusterHead(centroids + 1, classes, 3.0)(features))
    moved(features).sum().backward()
    assert other.grad.abs().sum() > 0
    assert torch.equal(head(features), before)
    assert moved.log_temperature is head.log_temperature
    with pytest.raises(ValueError, match="expected centroids"):
        head.with_centroids(centroids[:2], torch.tensor(1.0))


def test_state_dict_round_trip_takes_the_saved_number_of_clusters():
    features, centroids, classes = problem()
    head = ClusterHead(centroids, classes, 1.7, temperature=0.3)
    other = ClusterHead(torch.zeros(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2]), 1.0)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(features), head(features))
    assert set(head.state_dict()) == {"centroids", "classes", "variance", "log_temperature"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"centroids": torch.zeros(3, 5)}, "size mismatch for centroids"),
        ({"centroids": torch.zeros(4, 5), "classes": torch.arange(4)}, "size mismatch for centroids"),
        ({"centroids": torch.zeros(5, 4)}, "size mismatch for centroids"),
        ({"classes": torch.tensor([0, 1, 1])}, "class 2 has none"),
        ({"centroids": torch.zeros(4, 4), "classes": torch.arange(4)}, r"cluster classes must be in \[0, 3\)"),
        ({"variance": torch.tensor(0.0)}, "variance must be one positive"),
        ({"centroids": torch.full((3, 4), math.nan)}, "centroids must be finite"),
    ],
)
def test_a_state_that_is_no_head_like_this_is_refused(change, message):
    head = ClusterHead(torch.zeros(3, 4), torch.tensor([0, 1, 2]), 1.0)
    with pytest.raises(RuntimeError, match=message):
        head.load_state_dict(head.state_dict() | change)


def test_temperature_trains_only_when_asked():
    features, centroids, classes = problem()
    head = ClusterHead(centroids, classes, 1.0, temperature=2.0)
    assert not any(parameter.requires_grad for parameter in head.parameters())
    assert float(head.temperature) == pytest.approx(2.0)
    head.log_temperature.requires_grad_(True)
    assert torch.autograd.grad(head(features).logsumexp(1).sum(), head.log_temperature)[0].abs() > 0


def test_a_deep_copy_is_independent():
    features, centroids, classes = problem()
    head = ClusterHead(centroids, classes, 1.0)
    twin, before = copy.deepcopy(head), head(features)
    twin.refit(centroids + 1, classes, 4.0)
    assert torch.equal(head(features), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_features_and_half_heads_compute_in_float32(dtype):
    features, centroids, classes = problem(dtype=torch.float32)
    head = ClusterHead(centroids, classes, 1.0)
    assert torch.equal(head(features.to(dtype)), head(features.to(dtype).float()))
    assert head.to(dtype)(features.to(dtype)).dtype == torch.float32
    assert ClusterHead(centroids.to(dtype), classes, 1.0).centroids.dtype == torch.float32


def test_autocast_does_not_reach_the_heads():
    features, centroids, classes = problem(n=50, d=64, dtype=torch.float32)
    for head in (ClusterHead(centroids, classes, 0.01), LinearHead(64, 3)):
        exact = head(features)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(head(features), exact)


def test_linear_head_is_one_affine_map():
    head = LinearHead(4, 3)
    features = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(features), features @ head.linear.weight.T + head.linear.bias)
    assert (head.features_dim, head.num_classes) == (4, 3)


@pytest.mark.parametrize("chunk", [1, 3, 8192])
def test_feature_variance_is_the_double_loop(monkeypatch, chunk):
    monkeypatch.setattr("corral.models.variance.CHUNK", chunk)
    features, centroids, classes = problem(n=11)
    labels = torch.arange(11) % 3
    total = 0.0
    for f, y in zip(features, labels, strict=True):
        total += min(float((f - mu).square().sum()) for mu, c in zip(centroids, classes, strict=True) if c == y)
    assert float(feature_variance(features, labels, centroids, classes)) == pytest.approx(total / 10, rel=1e-12)


def test_feature_variance_refuses_what_has_none():
    features, centroids, classes = problem()
    with pytest.raises(ValueError, match="at least 2"):
        feature_variance(features[:1], torch.zeros(1, dtype=torch.long), centroids, classes)
    with pytest.raises(ValueError, match="label without one"):
        feature_variance(features, torch.full((7,), 3), centroids, classes)


def test_a_head_whose_temperature_is_trained_takes_a_saved_state_and_has_a_radius():
    head = ClusterHead(torch.randn(4, 3), torch.arange(4) % 2, 1.0, temperature=2.0)
    head.log_temperature.requires_grad_(True)
    state = {name: tensor.detach().clone() for name, tensor in head.state_dict().items()}
    head.load_state_dict(state)
    assert head.certified_radius(torch.randn(5, 3)).shape == (5,)
    with pytest.raises(RuntimeError, match="variance × temperature is inf"):
        head.load_state_dict(state | {"log_temperature": torch.tensor(1e4)})
