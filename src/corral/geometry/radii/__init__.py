"""How far a point may move before another class's centroid, score or affine function is the first."""

from corral.geometry.radii.linear import linear_radius
from corral.geometry.radii.nearest import nearest_radius, pairwise_margin, published_radius_unsound
from corral.geometry.radii.soft import soft_radius

__all__ = ["linear_radius", "nearest_radius", "pairwise_margin", "published_radius_unsound", "soft_radius"]
