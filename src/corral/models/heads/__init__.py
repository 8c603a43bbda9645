"""Heads by name, one file each: features to logits."""

from corral.models.heads.base import HEADS, Clusters, Head, require_own_radius
from corral.models.heads.cluster import ClusterHead, HeadRule
from corral.models.heads.cosine import CosineHead
from corral.models.heads.features import FeaturesHead
from corral.models.heads.linear import LinearHead
from corral.models.heads.simplex import SimplexHead

__all__ = [
    "HEADS",
    "ClusterHead",
    "Clusters",
    "CosineHead",
    "FeaturesHead",
    "Head",
    "HeadRule",
    "LinearHead",
    "SimplexHead",
    "require_own_radius",
]
