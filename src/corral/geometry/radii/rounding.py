"""Bounds on the rounding of float64 distances, by which certificates are lowered."""

import torch
from torch import Tensor

UNIT = 2.0**-53


def inner_product_error(dimension: int, lengths: Tensor) -> Tensor:
    """A bound on the rounding of inner products whose factors' lengths multiply to `lengths`.

    |fl(a·b) - a·b| <= gamma_n |a|·|b| <= gamma_n ||a|| ||b|| for any order of summation, gamma_n = n u / (1 - n u)
    (Higham 2002, Eq. 3.5); doubled, and with room for the few operations around it.

    Args:
        dimension: n, the number of products summed.
        lengths: products of the factors' Euclidean norms, in float64.
    """
    return 2 * (dimension + 16) * UNIT * lengths


def centred(features: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 with the centroids' mean at the origin: distances stay, and cancel less.

    Args:
        features: (N, d).
        centroids: (M, d).
    """
    centres = centroids.double()
    origin = centres.mean(0)
    # Promoted to float64 before they are subtracted, in one pass.
    return features - origin, centres - origin


def below(values: Tensor) -> Tensor:
    """Values lowered by a few units in the last place, and not below 0."""
    return (values * (1 - 8 * UNIT)).clamp_min(0)


def check_clusters(features: Tensor, centroids: Tensor, classes: Tensor) -> None:
    """Refuse arguments that have no radius.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or fewer than two classes.
    """
    if features.dim() != 2 or centroids.dim() != 2 or features.shape[1] != centroids.shape[1]:
        raise ValueError(
            f"features (N, d) and centroids (M, d) must have one d, found {tuple(features.shape)} and "
            f"{tuple(centroids.shape)}"
        )
    if classes.shape != centroids.shape[:1] or classes.is_floating_point():
        raise ValueError(f"classes must be ({len(centroids)},) integers, found {tuple(classes.shape)} {classes.dtype}")
    if not (_all_finite(features) and _all_finite(centroids)):
        raise ValueError("features and centroids must be finite, found NaN or infinity")
    if len(classes) == 0 or bool((classes == classes[0]).all()):
        raise ValueError("a radius needs centroids of at least two classes")


def _all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite. A finite sum proves it in one pass; else each value is checked."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())
