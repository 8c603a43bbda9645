"""Points and centroids, no networks."""

from corral.geometry.centres import largest_cosine, max_mahalanobis_centres, packed_centres
from corral.geometry.kmeans import ClassClusters, KMeans, class_kmeans, kmeans
from corral.geometry.neighbourhoods import ClusterLosses, Neighbourhood, NeighbourhoodSampler
from corral.geometry.scores import (
    TRUNCATION_PENALTY,
    Rule,
    class_index,
    class_scores,
    cluster_scores,
    squared_distances,
)

__all__ = [
    "TRUNCATION_PENALTY",
    "ClassClusters",
    "ClusterLosses",
    "KMeans",
    "Neighbourhood",
    "NeighbourhoodSampler",
    "Rule",
    "class_index",
    "class_kmeans",
    "class_scores",
    "cluster_scores",
    "kmeans",
    "largest_cosine",
    "max_mahalanobis_centres",
    "packed_centres",
    "squared_distances",
]
