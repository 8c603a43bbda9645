"""Noise that belongs to an image: its distribution, and that nothing but image, seed and draw decides it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from corral.attacks.noise import _mixed, image_keys, integers, normal, signs, uniform


def images(n=50, shape=(1, 4, 4), seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def reference_mix(value):
    """SplitMix64's finaliser on Python integers, as published."""
    whole = 2**64 - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & whole
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & whole
    return value ^ (value >> 31)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_the_mixing_function_is_the_published_one(values):
    found = _mixed(torch.tensor(values))
    assert [int(value) % 2**64 for value in found] == [reference_mix(value % 2**64) for value in values]


@given(st.integers(-(2**70), 2**70), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_key_is_of_the_image_and_the_seed_alone(seed, draw):
    x = images()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(draw))
    keys = image_keys(x, seed)
    assert torch.equal(image_keys(x[order], seed), keys[order])
    assert torch.equal(torch.cat([image_keys(part, seed) for part in x.split(7)]), keys)
    assert torch.equal(image_keys(x.double(), seed), keys)
    assert keys.unique().numel() == 50
    assert not bool((image_keys(x, seed + 1) == keys).any())
    assert torch.equal(uniform(keys[order], draw, (3,)), uniform(keys, draw, (3,))[order])


def test_one_pixel_or_two_exchanged_pixels_change_the_key():
    x = images(1)
    other, swapped = x.clone(), x.clone()
    other[0, 0, 2, 2] += 1e-6
    swapped[0, 0, 0, 0], swapped[0, 0, 0, 1] = x[0, 0, 0, 1], x[0, 0, 0, 0]
    assert image_keys(torch.cat([x, other, swapped]), 0).unique().numel() == 3


def test_uniform_and_normal_have_their_distributions_and_draws_are_independent():
    keys = image_keys(images(), 0)
    flat, bell = uniform(keys, 3, (1, 20, 20)).flatten(), normal(keys, 3, (1, 20, 20)).flatten()
    assert float(flat.min()) >= 0
    assert float(flat.max()) < 1
    assert stats.kstest(flat.double().numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(bell.double().numpy(), "norm").pvalue > 0.01
    other, elsewhere = uniform(keys, 4, (1, 20, 20)).flatten(), uniform(image_keys(images(), 1), 3, (400,)).flatten()
    correlations = torch.corrcoef(torch.stack([flat, other, elsewhere, flat.roll(1)])) - torch.eye(4)
    assert float(correlations.abs().max()) < 4 / len(flat) ** 0.5


def test_a_draw_of_each_image_is_the_one_it_would_have_alone():
    keys = image_keys(images(6), 0)
    draws = torch.tensor([0, 5, 0, 2**20, 7, 3])
    together = uniform(keys, draws, (2, 3))
    assert all(torch.equal(together[i], uniform(keys[i : i + 1], int(draws[i]), (2, 3))[0]) for i in range(6))


@pytest.mark.parametrize("high", [1, 2, 7, 1000])
def test_integers_are_uniform_below_their_bound(high):
    found = integers(image_keys(images(), 0), 1, high, (200,))
    assert int(found.min()) >= 0
    assert int(found.max()) < high
    if 1 < high < 10:
        assert stats.chisquare(torch.bincount(found.flatten(), minlength=high).numpy()).pvalue > 0.01


def test_a_bound_for_each_image():
    high = torch.tensor([1, 3, 9] * 16 + [4, 4])
    found = integers(image_keys(images(), 0), 1, high.unsqueeze(1), (100,))
    assert bool((found.amax(1) == high - 1).all())


def test_signs_are_fair():
    found = signs(image_keys(images(), 0), 2, (100,))
    assert set(found.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(found.mean())) < 4 / 5000**0.5
