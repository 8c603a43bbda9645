"""Radii around a cluster classifier's features within which the decision cannot change."""

from corral.certify.critique import CritiqueBounds, critique_bounds
from corral.certify.heads import head_radius
from corral.certify.linear import linear_radius
from corral.certify.lipschitz import LayerBound, LipschitzBound, lipschitz_upper
from corral.certify.nearest import nearest_radius, pairwise_margin, published_radius_unsound
from corral.certify.norms import l2_to_l1, l2_to_linf, normalisation_constant
from corral.certify.soft import soft_radius

__all__ = [
    "CritiqueBounds",
    "LayerBound",
    "LipschitzBound",
    "critique_bounds",
    "head_radius",
    "l2_to_l1",
    "l2_to_linf",
    "linear_radius",
    "lipschitz_upper",
    "nearest_radius",
    "normalisation_constant",
    "pairwise_margin",
    "published_radius_unsound",
    "soft_radius",
]
