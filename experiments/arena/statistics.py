"""The paired difference of two entries over seeds and images, with an interval that other seeds and images would be in.

Seeds and images are crossed: every seed's run meets the same images. With d[s, i] the difference of two entries' 0/1
outcomes (-1, 0, 1) for seed s and image i, the model is d = mean + seed + image + rest, each with its own variance, and
the mean's variance is that of readers × cases in radiology (Dorfman, Berbaum and Metz 1992; Hillis 2007):

    (MS_seed + max(MS_image - MS_rest, 0)) / (S n),

with Student's t of Satterthwaite's degrees of freedom. A t interval over seeds alone says nothing of other images. A
bootstrap over seeds and images would be too narrow with three seeds: its variance of seeds is 2/3 of the unbiased one,
and it has ten different draws of them. Where images do not matter this is the paired t interval over seeds; where seeds
do not, the paired t interval over images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A mean difference of accuracies, in [-1, 1].

    Attributes:
        mean: over seeds and images.
        low, high: ends of the interval.
        seeds: runs of each entry behind it. With one, the interval is of other images alone.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def certain(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def paired_difference(first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]]) -> Difference:
    """The difference of two entries' accuracies, first minus second.

    Args:
        first, second: (n,) truth values for each seed, of the same seeds and images.

    Raises:
        ValueError: no seed, or other numbers of seeds or images.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 2 or one.shape != other.shape or not one.size:
        raise ValueError(f"expected outcomes of the same seeds and images, found {one.shape} and {other.shape}")
    differences = one - other
    return interval(differences)


def interval(d: NDArray[np.float64]) -> Difference:
    """Mean and interval of crossed numbers.

    Args:
        d: (S, n) one number a seed and image.
    """
    seeds, n = d.shape
    mean = float(d.mean())
    by_image = d.mean(0)
    if n < 2:
        return Difference(mean, -1.0, 1.0, seeds)
    of_images = seeds * float(by_image.var(ddof=1))
    if seeds == 1:
        variance, freedom = of_images / n, float(n - 1)
    else:
        by_seed = d.mean(1)
        of_seeds = n * float(by_seed.var(ddof=1))
        rest = d - by_seed[:, None] - by_image + mean
        of_rest = float((rest**2).sum()) / ((seeds - 1) * (n - 1))
        beyond = max(of_images - of_rest, 0.0)
        variance = (of_seeds + beyond) / (seeds * n)
        squares = of_seeds**2 / (seeds - 1) + beyond**2 / (n - 1)
        freedom = (of_seeds + beyond) ** 2 / squares if squares > 0 else float(n - 1)
    return _of(mean, variance, freedom, seeds)


def _of(mean: float, variance: float, freedom: float, seeds: int) -> Difference:
    from scipy.stats import t as student  # late: importing it takes 0.5 s

    width = float(student.ppf((1 + LEVEL) / 2, freedom)) * variance**0.5
    return Difference(mean, mean - width, mean + width, seeds)
