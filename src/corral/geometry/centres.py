"""Class centres fixed before training: max-Mahalanobis centres, and a packing where there is no room for them."""

import math

import torch
from torch import Tensor

# The packing's descent: starts from different seeds, and steps at each sharpness, from soft to nearly the maximum.
STARTS, STEPS, SHARPNESS = 3, 100, (8.0, 32.0, 128.0, 512.0, 2048.0, 8192.0)


def max_mahalanobis_centres(classes: int, dimension: int, *, length: float = 1.0) -> Tensor:
    """(C, d) vertices of a regular simplex around 0 (Pang et al. 2018, Algorithm 1; MAT Eq. 3).

    All have the same length and every pair the cosine -1 / (C - 1), the least that the largest can be. In closed form:
    vertex j has sqrt(C (C - j) / ((C - 1) (C - j + 1))) at its own place j, minus that over C - j in all later ones.

    Args:
        classes: C >= 2.
        dimension: d >= C - 1; coordinates beyond C - 1 are 0.
        length: of every centre, > 0.

    Returns:
        float32, the same every time.

    Raises:
        ValueError: a number outside its range; d < C - 1, where `packed_centres` does what can be done.
    """
    _check(classes, dimension, length)
    if dimension < classes - 1:
        raise ValueError(
            f"{classes} classes need at least {classes - 1} dimensions for equal angles, found {dimension}: in fewer "
            "there is no regular simplex; take more features, or packed centres"
        )
    centres = torch.zeros(classes, dimension, dtype=torch.float64)
    for place in range(classes - 1):
        left = classes - place - 1
        own = math.sqrt(classes * left / ((classes - 1) * (left + 1)))
        centres[place, place] = own
        centres[place + 1 :, place] = -own / left
    return (length * centres).float()


def turned_simplex(classes: int, dimension: int) -> Tensor:
    """(C, d) unit vectors of pairwise cosine -1 / (C - 1) that use all d coordinates alike, turned by fixed numbers.

    Features that are never negative, as after a rectifier, point to no vertex of `max_mahalanobis_centres` that lies
    along a negative axis; to these they do.

    Args:
        classes: C >= 2.
        dimension: d >= C - 1.

    Returns:
        float32, the same every time on one machine.

    Raises:
        ValueError: as `max_mahalanobis_centres`.
    """
    vertices = max_mahalanobis_centres(classes, dimension)[:, : classes - 1].double()
    drawn = torch.randn(dimension, classes - 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found: Tensor = (vertices @ torch.linalg.qr(drawn)[0].T).float()
    return found


def packed_centres(classes: int, dimension: int, *, length: float = 1.0) -> Tensor:
    """(C, d) centres of one length, as far apart in angle as a search finds: for d < C - 1.

    Best effort: descent on the log-sum-exp of all cosines, ever sharper, from fixed random starts; the best is kept.
    Where a regular simplex fits it is `max_mahalanobis_centres`.

    Args:
        classes: C >= 2.
        dimension: d >= 1; at least 2 for more than two classes.
        length: of every centre, > 0.

    Returns:
        float32, the same every time on one machine.

    Raises:
        ValueError: a number outside its range, or more than two classes in one dimension.
    """
    _check(classes, dimension, length)
    if dimension >= classes - 1:
        return max_mahalanobis_centres(classes, dimension, length=length)
    if dimension == 1:
        raise ValueError(f"one dimension has two directions, not {classes}: take at least 2 features")
    found = [_descended(classes, dimension, seed) for seed in range(STARTS)]
    best = min(found, key=lambda centres: float(largest_cosine(centres)))
    return (length * best).float()


def largest_cosine(centres: Tensor) -> Tensor:
    """Scalar: the largest cosine between two of (C, d) centres."""
    unit = centres / centres.norm(dim=1, keepdim=True)
    largest: Tensor = (unit @ unit.T).fill_diagonal_(-torch.inf).amax()
    return largest


def _check(classes: int, dimension: int, length: float) -> None:
    if classes < 2 or dimension < 1:
        raise ValueError(f"centres need at least 2 classes and 1 dimension, found {classes} and {dimension}")
    if not 0 < length < math.inf:
        raise ValueError(f"the length of centres must be positive and finite, found {length}")


def _descended(classes: int, dimension: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    free = torch.randn(classes, dimension, generator=generator, dtype=torch.float64).requires_grad_(True)
    pairs = torch.triu_indices(classes, classes, 1)
    for sharpness in SHARPNESS:
        optimiser = torch.optim.Adam([free], lr=0.5 / sharpness**0.5)
        for _ in range(STEPS):
            unit = free / free.norm(dim=1, keepdim=True)
            cosines = (unit @ unit.T)[pairs[0], pairs[1]]
            optimiser.zero_grad()
            ((sharpness * cosines).logsumexp(0) / sharpness).backward()
            optimiser.step()
    found: Tensor = free.detach() / free.detach().norm(dim=1, keepdim=True)
    return found
