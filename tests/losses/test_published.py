"""The released code's Magnet: its double loop, its ceiling, and the missing gradient at it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.losses import batch_centroids, magnet, magnet_batch_published, magnet_published

CEILING = -math.log(1e-8)


def problem(n, seed):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.tensor([0, 1, 0, 2])
    features = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    centroids = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return features, torch.arange(n) % 4, centroids, classes


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 8), alpha=st.floats(0, 15), variance=st.floats(0.01, 20), seed=st.integers(0, 2**20))
def test_it_is_the_double_loop(n, alpha, variance, seed):
    features, assigned, centroids, classes = problem(n, seed)
    expected = []
    for f, own in zip(features, assigned, strict=True):
        scaled = [float((f - mu).square().sum()) / (2 * variance) for mu in centroids]
        rivals = sum(math.exp(-s) for s, label in zip(scaled, classes, strict=True) if label != classes[own])
        expected.append(max(0.0, -math.log(math.exp(-scaled[own] - alpha) / (rivals + 1e-8) + 1e-8)))
    found = magnet_published(features, assigned, centroids, classes, alpha=alpha, variance=variance)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-7)


def test_it_agrees_with_log_space_where_the_guards_do_not_matter():
    arguments = problem(8, 0)
    published = magnet_published(*arguments, alpha=3.0, variance=5.0)
    torch.testing.assert_close(published, magnet(*arguments, alpha=3.0, variance=5.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_saturates_at_18_4_without_a_gradient(dtype):
    """The worst examples of a batch, far from their own cluster and near a rival, teach nothing."""
    centroids, classes = torch.tensor([[0.0], [100.0]], dtype=dtype), torch.tensor([0, 1])
    features = torch.tensor([[60.0], [99.0]], dtype=dtype, requires_grad=True)
    arguments = features, torch.tensor([0, 0]), centroids, classes
    values = magnet_published(*arguments, alpha=12.5, variance=1.0)
    values.sum().backward()
    assert values.tolist() == pytest.approx([CEILING, CEILING], rel=1e-6)
    assert pytest.approx(18.42, abs=0.001) == CEILING
    assert torch.equal(features.grad, torch.zeros_like(features))
    (gradient,) = torch.autograd.grad(magnet(*arguments, alpha=12.5, variance=1.0).sum(), features)
    assert gradient.flatten().tolist() == pytest.approx([100.0, 100.0])


def test_gradients_are_the_numerical_ones():
    features, assigned, centroids, classes = problem(6, 1)
    variance = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def loss(features, centroids, variance):
        return magnet_published(features, assigned, centroids, classes, alpha=9.0, variance=variance)

    inputs = features.requires_grad_(), centroids.requires_grad_(), variance
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradcheck(lambda f: magnet_batch_published(f, assigned, classes, alpha=9.0), features)


def test_batch_form_uses_the_batch_means_and_variance():
    features, assigned, _, classes = problem(11, 2)
    means = batch_centroids(features, assigned, 4)
    variance = (features - means[assigned]).square().sum() / 10
    expected = magnet_published(features, assigned, means, classes, alpha=5.0, variance=variance)
    torch.testing.assert_close(magnet_batch_published(features, assigned, classes, alpha=5.0), expected)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_it_is_never_nan(scale):
    features, assigned, centroids, classes = problem(8, 3)
    features = (features.float() * scale).requires_grad_()
    for variance in (1e-6, 1.0, 1e6):
        values = magnet_published(features, assigned, centroids.float(), classes, alpha=12.5, variance=variance)
        (gradient,) = torch.autograd.grad(values.sum(), features)
        assert ((values >= 0) & (values < 18.43)).all()
        assert torch.isfinite(gradient).all()
