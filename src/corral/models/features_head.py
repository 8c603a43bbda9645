"""The head that is none: what an attack on features runs through."""

from torch import Tensor

from corral.models.heads import Head


class FeaturesHead(Head):
    """Features as they are, for an attack whose objective is one of features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features_dim = self.num_classes = features

    def forward(self, features: Tensor) -> Tensor:
        """(N, d) features of features (N, d)."""
        return features
