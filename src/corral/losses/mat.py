"""Losses against fixed class centres: MAT's three terms and its forerunner, the max-Mahalanobis centre loss."""

import torch
from torch import Tensor

from corral.precision import full_precision

# Below this length a feature vector has no direction worth following; it bounds every gradient (1e8 for a cosine).
SHORTEST = 1e-8


def _directions(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """(N, d) vectors over their lengths, and the (N,) lengths, at least SHORTEST."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1).clamp_min(SHORTEST)
    return vectors / lengths.unsqueeze(1), lengths


@full_precision
def ftc(features: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """Features to centre: 1 - cos(f, mu_y) (MAT's first-order term).

    Args:
        features: (N, d).
        centres: (C, d), one a class, of any length above 0; MAT's have equal norms and pairwise cosine -1 / (C - 1).
        labels: (N,) integers in [0, C).

    Returns:
        (N,) losses in [0, 2] up to rounding; 1 for a feature vector of length 0.
    """
    own = _directions(centres)[0][labels]
    return 1 - (_directions(features)[0] * own).sum(1)


@full_precision
def so(features: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """Second-order term: the length of FTC's gradient by the features, sqrt(1 - cos^2) / ||f|| (MAT's Eq. 6).

    The sine is the length of f's part across mu_y: it keeps its digits where cos is near 1 (1 - cos^2 loses half of
    them) and has a bounded gradient there, 0 at cos = 1 itself. Without `bibo_distance` in the sum the term masks
    gradients: ||f|| grows until attacks on the logits f · mu underflow, and the model is no more robust (methods,
    section 5). Arguments as `ftc`.

    Args:
        features: (N, d).
        centres: (C, d), one a class, of any length above 0.
        labels: (N,) integers in [0, C).

    Returns:
        (N,) losses, at least 0; at most 1 / ||f||, where ||f|| counts as 1e-8 if it is shorter.
    """
    own = _directions(centres)[0][labels]
    directions, lengths = _directions(features)
    across = directions - (directions * own).sum(1, keepdim=True) * own
    sines: Tensor = torch.linalg.vector_norm(across, dim=1)
    return sines / lengths


@full_precision
def bibo_distance(features: Tensor, adversarial_features: Tensor) -> Tensor:
    """1 - cos(f(x), f(x')), whose maximum over the eps-ball around x is MAT's bounded-input, bounded-output term.

    Args:
        features: (N, d) of the clean images.
        adversarial_features: (N, d) of points in their balls, row for row.

    Returns:
        (N,) losses in [0, 2] up to rounding; gradients flow to both arguments.
    """
    return 1 - (_directions(features)[0] * _directions(adversarial_features)[0]).sum(1)


def mat_terms(
    features: Tensor, centres: Tensor, labels: Tensor, compared: tuple[Tensor, Tensor] | None
) -> dict[str, Tensor]:
    """The terms of MAT's loss (Eq. 9), by name: "ftc", "so" and, of the features compared, "bibo".

    Args:
        features: (N, d) whose direction should be that of their centre.
        centres: (C, d), one a class.
        labels: (N,) integers in [0, C).
        compared: (N, d) features of the clean images and of points in their balls; None without BIBO.

    Returns:
        (N,) values of each term, unweighted.
    """
    terms = {"ftc": ftc(features, centres, labels), "so": so(features, centres, labels)}
    return terms if compared is None else terms | {"bibo": bibo_distance(*compared)}


@full_precision
def mmc(features: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """(N,) losses ||f - mu_y||^2 / 2 (Pang et al. 2020, Eq. 8; MAT's Eq. 2); arguments as `ftc`.

    Args:
        features: (N, d).
        centres: (C, d), one a class.
        labels: (N,) integers in [0, C).
    """
    return (features - centres[labels]).square().sum(1) / 2
