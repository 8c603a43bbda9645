"""The two logits that MAT gives a model of one centre a class: cosines, and inner products of any length (Sec. 3.3)."""

from torch import Tensor

from corral.losses.mat import SHORTEST
from corral.models.heads import Clusters
from corral.models.heads.base import Head
from corral.models.linear_equivalent import centres_of_equal_length
from corral.precision import full_precision


class CentreLogits(Head):
    """L f · mu / ||mu||, or cos(f, mu), for the centres mu of clusters: all decide alike (MAT Eqs. 10 and 11).

    Their softmax is not alike: cosines are in [-1, 1], inner products grow with the features and with L.

    Args:
        clusters: one centroid a class, all of equal length above 0.
        length: L > 0; None for cosines.

    Raises:
        ValueError: other centroids, or a length that is not above 0.
    """

    directions: Tensor

    def __init__(self, clusters: Clusters, length: float | None = None) -> None:
        super().__init__()
        centres = centres_of_equal_length(clusters)
        if centres is None:
            raise ValueError("inner products decide as cosines do only for one centroid a class, all of equal length")
        if length is not None and not length > 0:
            raise ValueError(f"centres need a length above 0, found {length}")
        self.num_classes, self.features_dim = centres.shape
        self.length = length
        directions = centres / centres.norm(dim=1, keepdim=True)
        self.register_buffer("directions", directions.to(clusters.centroids))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C) logits of features (N, d), in float32 or wider."""
        return _logits(features, self.directions, self.length)


@full_precision
def _logits(features: Tensor, directions: Tensor, length: float | None) -> Tensor:
    products = features @ directions.T
    if length is not None:
        return length * products
    cosines: Tensor = products / features.norm(dim=1, keepdim=True).clamp_min(SHORTEST)
    return cosines
