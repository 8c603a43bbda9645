"""Radii within which a cluster classifier's decision cannot change, and the Lipschitz bounds that they rest on."""

from corral.certify.branch_and_bound import LipschitzInterval, LocalLipschitz, exact_lipschitz, local_lipschitz
from corral.certify.critique import CritiqueBounds, critique_bounds
from corral.certify.empirical import empirical_lipschitz_lower
from corral.certify.layer_bounds import normalisation_constant
from corral.certify.lipschitz import LayerBound, LipschitzBound, lipschitz_upper
from corral.certify.operator_norms import conv_norm_upper, dense_norm_upper
from corral.certify.radii import head_radius, l2_to_l1, l2_to_linf
from corral.geometry.radii.linear import linear_radius
from corral.geometry.radii.nearest import nearest_radius, pairwise_margin, published_radius_unsound
from corral.geometry.radii.soft import soft_radius

__all__ = [
    "CritiqueBounds",
    "LayerBound",
    "LipschitzBound",
    "LipschitzInterval",
    "LocalLipschitz",
    "conv_norm_upper",
    "critique_bounds",
    "dense_norm_upper",
    "empirical_lipschitz_lower",
    "exact_lipschitz",
    "head_radius",
    "l2_to_l1",
    "l2_to_linf",
    "linear_radius",
    "lipschitz_upper",
    "local_lipschitz",
    "nearest_radius",
    "normalisation_constant",
    "pairwise_margin",
    "published_radius_unsound",
    "soft_radius",
]
