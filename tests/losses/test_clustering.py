"""Clustering losses against double loops in Python floats, their gradients, invariances and extremes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import oracles
from tests.oracles import squared_distance
from torch.nn import functional

from corral import losses
from corral.losses import magnet, magnet_batch


def problem(n=9, d=3, clusters=(2, 1, 3), seed=0, dtype=torch.float64):
    """Features, their assigned clusters (every cluster has one if n allows), centroids and classes."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.tensor([label for label, count in enumerate(clusters) for _ in range(count)])
    features = torch.randn(n, d, generator=generator, dtype=dtype)
    centroids = torch.randn(len(classes), d, generator=generator, dtype=dtype)
    assigned = torch.arange(n) % len(classes)
    return features, assigned, centroids, classes


SHAPES = {
    "n": st.integers(2, 9),
    "d": st.integers(1, 4),
    "clusters": st.lists(st.integers(1, 3), min_size=1, max_size=4),
    "alpha": st.floats(0, 15),
    "seed": st.integers(0, 2**20),
}


@settings(max_examples=40, deadline=None)
@given(**SHAPES, variance=st.floats(0.2, 20))
def test_magnet_is_the_double_loop(n, d, clusters, alpha, seed, variance):
    arguments = problem(n, d, clusters, seed)
    expected = oracles.magnet(*arguments, alpha, variance)
    torch.testing.assert_close(magnet(*arguments, alpha=alpha, variance=variance), expected, rtol=1e-9, atol=1e-9)
    features, assigned, centroids, _ = arguments
    own = oracles.cluster_variance(features, assigned, centroids)
    expected = oracles.magnet(*arguments, alpha, own)
    torch.testing.assert_close(magnet(*arguments, alpha=alpha), expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(**SHAPES)
def test_batch_magnet_is_the_double_loop(n, d, clusters, alpha, seed):
    features, assigned, _, classes = problem(n + sum(clusters), d, clusters, seed)
    centroids = oracles.cluster_means(features, assigned, len(classes))
    torch.testing.assert_close(losses.batch_centroids(features, assigned, len(classes)), centroids)
    variance = oracles.cluster_variance(features, assigned, centroids)
    torch.testing.assert_close(losses.batch_variance(features, assigned, centroids), variance)
    expected = oracles.magnet(features, assigned, centroids, classes, alpha, variance)
    torch.testing.assert_close(magnet_batch(features, assigned, classes, alpha=alpha), expected, rtol=1e-8, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(**SHAPES, variance=st.one_of(st.none(), st.floats(0.2, 20)))
def test_full_magnet_pulls_to_the_nearest_own_centroid(n, d, clusters, alpha, seed, variance):
    features, assigned, centroids, classes = problem(n, d, clusters, seed)
    labels = classes[assigned]
    nearest = []
    for f, y in zip(features.tolist(), labels.tolist(), strict=True):
        own = [k for k in range(len(classes)) if int(classes[k]) == y]
        nearest.append(min(own, key=lambda k, f=f: squared_distance(f, centroids[k].tolist())))
    nearest = torch.tensor(nearest)
    assert torch.equal(losses.nearest_own(features, labels, centroids, classes), nearest)
    scale = oracles.cluster_variance(features, nearest, centroids) if variance is None else variance
    expected = oracles.magnet(features, nearest, centroids, classes, alpha, scale)
    parts = {"pull": losses.pull_nearest, "combine": losses.hinge(alpha), "variance": scale}
    for found in (
        magnet(features, nearest, centroids, classes, alpha=alpha, variance=variance),
        losses.clustering_loss(features, assigned, centroids, classes, **parts),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def family(pull, push, alpha=2.0):
    return {"pull": pull, "push": push, "combine": losses.hinge(alpha)}


def test_the_family_with_other_parts_is_its_double_loop():
    features, assigned, centroids, classes = problem(n=20)
    nearest = losses.nearest_own(features, classes[assigned], centroids, classes)
    expected = []
    for f, own in zip(features.tolist(), nearest.tolist(), strict=True):
        rivals = [squared_distance(f, mu) for mu in centroids[classes != classes[own]].tolist()]
        expected.append(max(0.0, 2.0 + squared_distance(f, centroids[own].tolist()) / 3 - min(rivals) / 3))
    parts = family(losses.pull_nearest, losses.push_nearest)
    found = losses.clustering_loss(features, assigned, centroids, classes, **parts, variance=1.5)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_magnet_is_a_preset_of_the_family():
    arguments = problem(n=20)
    parts = family(losses.pull_assigned, losses.push_soft)
    assert torch.equal(
        losses.clustering_loss(*arguments, **parts, variance=1.5), magnet(*arguments, alpha=2, variance=1.5)
    )
    by_nearest = family(losses.pull_nearest, losses.push_soft)
    features, assigned, centroids, classes = arguments
    own = losses.nearest_own(features, classes[assigned], centroids, classes)
    torch.testing.assert_close(
        losses.clustering_loss(*arguments, **by_nearest, variance=1.5),
        magnet(features, own, centroids, classes, alpha=2, variance=1.5),
    )


def test_gradients_are_the_numerical_ones():
    features, assigned, centroids, classes = problem()
    features.requires_grad_()
    centroids.requires_grad_()
    variance = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def check(function, *inputs):
        return torch.autograd.gradcheck(function, inputs)

    # alpha 20 keeps every hinge open, away from its kink.
    assert check(lambda f, c, v: magnet(f, assigned, c, classes, alpha=20, variance=v), features, centroids, variance)
    assert check(lambda f, c: magnet(f, assigned, c, classes, alpha=20), features, centroids)
    assert check(lambda f: magnet_batch(f, assigned, classes, alpha=20), features)
    for pull in (losses.pull_assigned, losses.pull_nearest):
        for push in (losses.push_soft, losses.push_nearest):
            parts = family(pull, push, 20)
            assert check(
                lambda f, c, v, parts=parts: losses.clustering_loss(f, assigned, c, classes, **parts, variance=v),
                features,
                centroids,
                variance,
            )


LOSSES = {
    "magnet": lambda f, a, c, k, v: magnet(f, a, c, k, alpha=3, variance=v),
    "magnet_of_the_nearest": lambda f, a, c, k, v: magnet(
        f, losses.nearest_own(f, k[a], c, k), c, k, alpha=3, variance=v
    ),
    "magnet_batch": lambda f, a, c, k, v: magnet_batch(f, a, k, alpha=3),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_translation_scaling_and_rotation_change_nothing(loss):
    features, assigned, centroids, classes = problem(n=20)
    expected = loss(features, assigned, centroids, classes, 1.5)
    shift = torch.tensor([5.0, -70.0, 300.0], dtype=torch.float64)
    torch.testing.assert_close(loss(features + shift, assigned, centroids + shift, classes, 1.5), expected)
    torch.testing.assert_close(loss(features * 7, assigned, centroids * 7, classes, 1.5 * 49), expected)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    torch.testing.assert_close(loss(features @ rotation, assigned, centroids @ rotation, classes, 1.5), expected)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(loss(features[order], assigned[order], centroids, classes, 1.5), expected[order])


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("variance", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("norm", [1e-4, 1.0, 1e6])
def test_float32_extremes_are_finite(loss, variance, norm):
    features, assigned, centroids, classes = problem(n=20, dtype=torch.float32)
    for scale in (1.0, norm):
        f = functional.normalize(features).mul(norm).requires_grad_()
        c = (centroids * scale).requires_grad_()
        values = loss(f, assigned, c, classes, torch.tensor(variance))
        values.mean().backward()
        assert torch.isfinite(values).all()
        assert torch.isfinite(f.grad).all()
        assert c.grad is None or torch.isfinite(c.grad).all()


def test_without_rivals_the_loss_is_zero_with_gradient_zero():
    features, assigned, centroids, _ = problem()
    features.requires_grad_()
    centroids.requires_grad_()
    for push in (losses.push_soft, losses.push_nearest):
        parts = family(losses.pull_assigned, push)
        values = losses.clustering_loss(features, assigned, centroids, torch.zeros(6, dtype=torch.long), **parts)
        gradients = torch.autograd.grad(values.sum(), (features, centroids))
        assert torch.equal(values, torch.zeros_like(values))
        assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


def test_a_collapsed_batch_has_a_finite_loss():
    """All features equal: every distance is 0, so the loss is alpha + log of the number of rivals."""
    features = torch.ones(6, 3, requires_grad=True)
    values = magnet_batch(features, torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 1]), alpha=4.0)
    values.sum().backward()
    expected = torch.tensor([4 + math.log(2), 4, 4] * 2)
    torch.testing.assert_close(values.detach(), expected)
    assert torch.isfinite(features.grad).all()


def test_separated_singletons_have_no_variance_and_no_loss():
    features = torch.eye(3, requires_grad=True)
    values = magnet_batch(features, torch.arange(3), torch.arange(3), alpha=4.0)
    values.sum().backward()
    assert torch.equal(values, torch.zeros(3))
    assert torch.equal(features.grad, torch.zeros(3, 3))


def test_far_examples_keep_their_gradient():
    """Where the published form saturates, the log-space loss grows with the distance and pulls."""
    centroids, classes = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    features = torch.tensor([[50.0]], requires_grad=True)
    value = magnet(features, torch.tensor([0]), centroids, classes, alpha=1.0, variance=0.5)
    value.sum().backward()
    assert value.item() == pytest.approx(1 + 50**2 - 49**2)
    assert float(features.grad) == pytest.approx(2.0)


def test_absent_clusters_need_a_fallback():
    features, assigned, centroids, _ = problem(n=4)
    with pytest.raises(ValueError, match="cluster 4 has no example in the batch: pass fallback"):
        losses.batch_centroids(features, assigned, 6)
    features.requires_grad_()
    found = losses.batch_centroids(features, assigned, 6, fallback=centroids)
    assert torch.equal(found[:4], features)
    assert torch.equal(found[4:], centroids[4:])
    found.sum().backward()
    assert torch.equal(features.grad, torch.ones_like(features))


def test_one_example_has_no_variance():
    features, assigned, centroids, classes = problem(n=1)
    with pytest.raises(ValueError, match="at least 2 examples, found 1"):
        magnet(features, assigned, centroids, classes, alpha=1.0)
    assert magnet(features, assigned, centroids, classes, alpha=1.0, variance=1.0).shape == (1,)


@pytest.mark.parametrize(("name", "words"), [("magnet_full", "nearest_own"), ("cluster_cross_entropy", "class_scores")])
def test_a_loss_that_went_says_what_is_the_same(name, words):
    with pytest.raises(AttributeError, match=f"no attribute '{name}': .*{words}"):
        getattr(losses, name)
    with pytest.raises(AttributeError, match=r"no attribute 'other'$"):
        _ = losses.other
