"""Accuracies with their standard errors, and the standard error of the difference of two of them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

NOISE = 2.0
"""Differences of fewer standard errors than this are called noise."""


@dataclass(frozen=True)
class Estimate:
    """An accuracy with its standard error.

    Attributes:
        mean: accuracy in [0, 1], the mean over seeds.
        error: standard error. One seed: binomial. Several: binomial error of the test images, which all seeds share,
            and the error of the mean over seeds, added in squares.
        n: test images behind it.
        spread: sample standard deviation over seeds, None for one seed.
        seeds: number of runs behind it.
        shares: (n,) share of the seeds, in [0, 1], that were right on each image; None where it is not known.
    """

    mean: float
    error: float
    n: int
    spread: float | None
    seeds: int = 1
    shares: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)

    @property
    def seed_error(self) -> float:
        """Standard error of the mean over seeds, 0 for one seed: nothing is known of others."""
        return 0.0 if self.spread is None else self.spread / math.sqrt(self.seeds)


def estimate(values: Sequence[tuple[float, int]], outcomes: Sequence[NDArray[np.bool_] | None]) -> Estimate:
    """The mean over the seeds of one entry.

    Args:
        values: accuracy and number of images of each seed.
        outcomes: (n,) whether each image was right, for each seed; None where it is not known.
    """
    accuracies = [accuracy for accuracy, _ in values]
    n = min(count for _, count in values)
    mean = statistics.fmean(accuracies)
    binomial = math.sqrt(max(mean * (1 - mean), 0.0) / n)
    shares = _shares(outcomes)
    if len(values) == 1:
        return Estimate(mean, binomial, n, None, 1, shares)
    spread = statistics.stdev(accuracies)
    seeds = len(values)
    return Estimate(mean, math.hypot(binomial, spread / math.sqrt(seeds)), n, spread, seeds, shares)


def difference_error(first: Estimate, second: Estimate) -> float:
    """Standard error of a difference of two accuracies.

    Where both are known image by image it is paired: with d the differences of the two shares on each image, the
    error is sd(d) / sqrt(n). For one seed each, where only the first is right on b images and only the second on c,
    that is sqrt(b + c - (b - c)^2 / n) / n. The sd divides by n, not n - 1, as does the binomial error of one accuracy.
    The errors of the means over seeds are added in squares, as if the seeds of the two were independent.

    Elsewhere the two count as independent; on the same images the true error is mostly smaller.
    """
    differences = _differences(first, second)
    if differences is None:
        return math.hypot(first.error, second.error)
    images = float(differences.std()) / math.sqrt(len(differences))
    return math.hypot(images, first.seed_error, second.seed_error)


def within_noise(first: Estimate, second: Estimate) -> bool:
    """Whether two accuracies cannot be told apart."""
    gap = abs(first.mean - second.mean)
    return gap == 0 or gap < NOISE * difference_error(first, second)


def paired(first: Estimate, second: Estimate) -> bool:
    """Whether the two are compared image by image."""
    return _differences(first, second) is not None


def only_one_kept(first: Estimate, second: Estimate) -> tuple[int, int] | None:
    """Images that only the first was right on, and only the second; None unless paired, with one seed each."""
    differences = _differences(first, second)
    if differences is None or first.seeds > 1 or second.seeds > 1:
        return None
    return int((differences > 0).sum()), int((differences < 0).sum())


def _shares(outcomes: Sequence[NDArray[np.bool_] | None]) -> NDArray[np.float64] | None:
    known = [values for values in outcomes if values is not None]
    if len(known) < len(outcomes) or len({len(values) for values in known}) > 1:
        return None
    # A mean of truth values is a whole number over the seeds: equal counts make exactly equal shares.
    shares: NDArray[np.float64] = np.stack(known).mean(axis=0, dtype=np.float64)
    return shares


def _differences(first: Estimate, second: Estimate) -> NDArray[np.float64] | None:
    if first.shares is None or second.shares is None or len(first.shares) != len(second.shares):
        return None
    return first.shares - second.shares
