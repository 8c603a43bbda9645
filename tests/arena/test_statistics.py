"""The interval of a paired difference: its closed forms at either end, and how often it covers the truth."""

import numpy as np
import pytest
from experiments.arena.statistics import interval, paired_difference
from scipy import stats


def t_interval(numbers):
    return stats.ttest_1samp(numbers, 0).confidence_interval(0.95)


def test_without_an_effect_of_images_it_is_the_paired_t_interval_over_seeds():
    """Images of one seed differ by chance alone, here so that every image's mean over seeds is the same."""
    d = np.array([[1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]], float)
    d = np.vstack([d, d + 1])
    assert np.ptp(d.mean(0)) == 0
    found, expected = interval(d), t_interval(d.mean(1))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_of_equal_seeds_it_is_the_paired_t_interval_over_images():
    one, other = np.array([1, 1, 0, 1, 0, 1, 1, 0], bool), np.array([0, 1, 0, 1, 1, 0, 0, 0], bool)
    expected = stats.ttest_rel(one.astype(float), other.astype(float)).confidence_interval(0.95)
    for seeds in (1, 3):
        found = paired_difference([one] * seeds, [other] * seeds)
        assert found.mean == pytest.approx(2 / 8)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_variance_is_that_of_two_way_analysis_of_variance_by_hand():
    d = np.array([[3.0, 1.0, 5.0], [2.0, 0.0, 7.0]])  # means 3 and 3; 2.5, 0.5, 6; all 3
    images = 2 * ((2.5 - 3) ** 2 + (0.5 - 3) ** 2 + (6 - 3) ** 2) / 2
    rest = sum((a - b - (c - 3)) ** 2 for row, b in zip(d, (3, 3), strict=True) for a, c in
               zip(row, (2.5, 0.5, 6), strict=True)) / 2  # fmt: skip
    width = stats.t.ppf(0.975, 2) * ((images - rest) / 6) ** 0.5  # no effect of seeds: freedom of three images
    found = interval(d)
    assert (found.low, found.high) == pytest.approx((3 - width, 3 + width))


def test_the_order_of_entries_is_the_sign():
    chance = np.random.default_rng(0)
    one, other = chance.random((2, 3, 40)) < 0.5
    ahead, behind = paired_difference(one, other), paired_difference(other, one)
    assert (ahead.mean, ahead.low, ahead.high) == pytest.approx((-behind.mean, -behind.high, -behind.low))
    assert paired_difference(one, one).low == paired_difference(one, one).high == 0


def test_other_seeds_and_images_are_inside_as_often_as_it_says():
    """Crossed normal effects: of 95% intervals about 95 in a hundred have the true mean; of seeds alone far fewer."""
    chance, tries, seeds, n = np.random.default_rng(1), 600, 3, 30
    inside = alone = 0
    for _ in range(tries):
        of_seeds, of_images = 0.1 * chance.standard_normal((seeds, 1)), chance.standard_normal((1, n))
        d = 0.3 + of_seeds + of_images + 0.5 * chance.standard_normal((seeds, n))
        found, over_seeds = interval(d), t_interval(d.mean(1))
        inside += found.low <= 0.3 <= found.high
        alone += over_seeds.low <= 0.3 <= over_seeds.high
    assert 0.925 <= inside / tries <= 0.985
    assert alone / tries < 0.85


def test_outcomes_of_other_images_or_seeds_are_refused():
    with pytest.raises(ValueError, match="expected outcomes of the same seeds and images"):
        paired_difference(np.ones((2, 5)), np.ones((3, 5)))
    with pytest.raises(ValueError, match="expected outcomes"):
        paired_difference([], [])
