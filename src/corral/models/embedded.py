"""A backbone with one more linear layer: features of any number and sign, as fixed class centres need."""

from torch import Tensor, nn

from corral.models.backbone import Backbone


class Embedded(Backbone):
    """A backbone's features through a linear layer without a rectifier.

    Averages of rectified maps are never negative: none of them has a negative cosine with another, so that they cannot
    lie near the vertices of a simplex around 0.

    Args:
        backbone: images to (N, features_dim).
        features: d, the number of features after the layer.
    """

    def __init__(self, backbone: Backbone, features: int) -> None:
        super().__init__()
        self.features_dim = features
        self.backbone = backbone
        self.embedding = nn.Linear(backbone.features_dim, features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) features of (N, C, H, W) images."""
        features: Tensor = self.embedding(self.backbone(x))
        return features
