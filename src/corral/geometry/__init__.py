"""Points and centroids, no networks."""

from corral.geometry.centres import largest_cosine, max_mahalanobis_centres, packed_centres
from corral.geometry.kmeans import class_kmeans, kmeans
from corral.geometry.neighbourhoods import ClusterLosses, NeighbourhoodSampler
from corral.geometry.scores import (
    Rule,
    class_index,
    class_scores,
    cluster_scores,
    membership_scores,
    squared_distances,
)
from corral.geometry.seeding import afk_mc2
from corral.geometry.silhouette import Choice, choose_clusters, cosine_silhouette
from corral.geometry.simplex import fitted_simplex

__all__ = [
    "Choice",
    "ClusterLosses",
    "NeighbourhoodSampler",
    "Rule",
    "afk_mc2",
    "choose_clusters",
    "class_index",
    "class_kmeans",
    "class_scores",
    "cluster_scores",
    "cosine_silhouette",
    "fitted_simplex",
    "kmeans",
    "largest_cosine",
    "max_mahalanobis_centres",
    "membership_scores",
    "packed_centres",
    "squared_distances",
]
