"""Radii around a cluster classifier's features within which the decision cannot change."""

from corral.certify.critique import CritiqueBounds, critique_bounds
from corral.certify.nearest import nearest_radius, published_radius_unsound
from corral.certify.norms import l2_to_l1, l2_to_linf, normalisation_constant
from corral.certify.soft import soft_radius

__all__ = [
    "CritiqueBounds",
    "critique_bounds",
    "l2_to_l1",
    "l2_to_linf",
    "nearest_radius",
    "normalisation_constant",
    "published_radius_unsound",
    "soft_radius",
]
