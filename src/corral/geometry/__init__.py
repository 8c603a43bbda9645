"""Points and centroids, no networks."""

from corral.geometry.centres import largest_cosine, max_mahalanobis_centres, packed_centres, turned_simplex
from corral.geometry.kmeans import class_kmeans, cluster_sizes, kmeans
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
from corral.geometry.silhouette import Choice, choose_clusters, cosine_silhouette, mean_width
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
    "cluster_sizes",
    "cosine_silhouette",
    "fitted_simplex",
    "kmeans",
    "largest_cosine",
    "max_mahalanobis_centres",
    "mean_width",
    "membership_scores",
    "packed_centres",
    "squared_distances",
    "turned_simplex",
]
