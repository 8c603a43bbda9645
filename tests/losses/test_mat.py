"""MAT's terms against autograd's own gradient norm, closed forms, and their limits at cos = 1 and at f = 0."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from corral.losses.mat import bibo_distance, ftc, so


def case(n, d, classes, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=generator, dtype=dtype)
    centres = torch.randn(classes, d, generator=generator, dtype=dtype)
    return features, centres, torch.randint(classes, (n,), generator=generator)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 6), d=st.integers(2, 9), classes=st.integers(1, 5), seed=st.integers(0, 2**20))
def test_so_is_the_length_of_the_gradient_of_ftc(n, d, classes, seed):
    features, centres, labels = case(n, d, classes, seed)
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(ftc(features, centres, labels).sum(), features)
    torch.testing.assert_close(so(features, centres, labels), gradient.norm(dim=1))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), scale=st.floats(1e-3, 1e3))
def test_cosines_do_not_see_lengths_and_so_falls_with_them(seed, scale):
    features, centres, labels = case(5, 6, 4, seed)
    expected = 1 - functional.cosine_similarity(features, centres[labels])
    torch.testing.assert_close(ftc(features, centres, labels), expected)
    torch.testing.assert_close(ftc(scale * features, 3 * centres, labels), expected)
    torch.testing.assert_close(so(scale * features, 3 * centres, labels), so(features, centres, labels) / scale)
    torch.testing.assert_close(
        bibo_distance(features, scale * features.flip(0)), 1 - functional.cosine_similarity(features, features.flip(0))
    )


def test_right_angles_and_opposites_have_closed_forms():
    centres = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    features = torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, 0.0], [3.0, 3.0]])
    labels = torch.zeros(4, dtype=torch.long)
    torch.testing.assert_close(ftc(features, centres, labels), torch.tensor([0.0, 1.0, 2.0, 1 - math.sqrt(0.5)]))
    torch.testing.assert_close(so(features, centres, labels), torch.tensor([0.0, 0.25, 0.0, 1 / 6]))
    torch.testing.assert_close(bibo_distance(features[:3], features[1:]), torch.tensor([1.0, 1.0, 1 + math.sqrt(0.5)]))


@pytest.mark.parametrize("loss", [ftc, so])
def test_gradients_are_the_numerical_ones(loss):
    features, centres, labels = case(3, 4, 3, 1)
    assert torch.autograd.gradcheck(lambda f: loss(f, centres, labels), (features.requires_grad_(),))


def test_bibo_gradients_are_the_numerical_ones_on_both_sides():
    features, _, _ = case(4, 5, 2, 2)
    other = case(4, 5, 2, 3)[0]
    assert torch.autograd.gradcheck(bibo_distance, (features.requires_grad_(), other.requires_grad_()))


def test_so_keeps_its_digits_next_to_the_centre():
    """At an angle of 1e-5 float32's 1 - cos^2 is 0 or 1.2e-7; the sine must still be 1e-5."""
    angle = 1e-5
    features = torch.tensor([[math.cos(angle), math.sin(angle)]])
    found = so(features, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    torch.testing.assert_close(found, torch.tensor([angle]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-12, 1.0, 1e18])
@pytest.mark.parametrize("direction", [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 1e-20]])
def test_gradients_stay_finite_at_the_centre_and_for_tiny_features(length, direction):
    features = (length * torch.tensor([direction])).requires_grad_()
    centres, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    other = torch.tensor([[1.0, 1.0]])
    total = ftc(features, centres, labels) + so(features, centres, labels) + bibo_distance(features, other)
    (gradient,) = torch.autograd.grad(total.sum(), features)
    assert torch.isfinite(total).all()
    assert torch.isfinite(gradient).all()


def test_a_gradient_of_so_at_its_minimum_is_zero_across_the_centre():
    features = torch.tensor([[3.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(so(features, torch.tensor([[1.0, 0.0]]), torch.tensor([0])).sum(), features)
    assert gradient.tolist() == [[0.0, 0.0]]
