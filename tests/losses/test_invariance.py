"""AIR's two regularisers against double loops, and where they vanish."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.losses import adversarial_invariance, standard_invariance


def vectors(count, images, seed):
    return torch.randn(count, images, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shares(ones, others, temperature):
    """Softmax over the batch of the cosines of rows with the same rows, by loops."""
    weights = []
    for a, b in zip(ones.tolist(), others.tolist(), strict=True):
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        weights.append(math.exp(dot / (math.hypot(*a) * math.hypot(*b)) / temperature))
    return [weight / sum(weights) for weight in weights]


@settings(deadline=None, max_examples=40)
@given(images=st.integers(2, 8), seed=st.integers(0, 2**31), temperature=st.sampled_from([0.1, 0.5, 2.0]))
def test_standard_invariance_is_the_divergence_of_the_views_shares(images, seed, temperature):
    first, second, original = vectors(3, images, seed)
    p, q = shares(first, original, temperature), shares(second, original, temperature)
    expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    found = float(standard_invariance(first, second, original, temperature=temperature))
    assert found == pytest.approx(expected, abs=1e-9)
    assert found >= -1e-12


@settings(deadline=None, max_examples=40)
@given(images=st.integers(2, 8), seed=st.integers(0, 2**31), temperature=st.sampled_from([0.1, 0.5, 2.0]))
def test_adversarial_invariance_compares_products_of_shares(images, seed, temperature):
    first, second, moved, other, original = vectors(5, images, seed)
    p = [a * b for a, b in zip(shares(moved, original, temperature), shares(moved, first, temperature), strict=True)]
    q = [a * b for a, b in zip(shares(other, original, temperature), shares(other, second, temperature), strict=True)]
    expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    found = adversarial_invariance(first, second, moved, other, original, temperature=temperature)
    assert float(found) == pytest.approx(expected, abs=1e-9)


def test_both_vanish_where_the_views_are_alike():
    view, moved, original = vectors(3, 6, 1)
    assert float(standard_invariance(view, 3 * view, original)) == pytest.approx(0, abs=1e-12)
    assert float(adversarial_invariance(view, view, moved, moved, original)) == pytest.approx(0, abs=1e-12)
