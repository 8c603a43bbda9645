"""Features in the place of logits, for attacks on features and for encoders."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from corral.models.heads.base import HEADS, Head, options_of


class FeaturesHead(Head):
    """Features as they are, for an attack whose objective is one of features, and for encoders.

    Args:
        features: d.
    """

    name = "features"
    decides = False
    fitted = True

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features_dim = self.num_classes = features

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], features: int, classes: int) -> "FeaturesHead":
        """Features as they are; there are no classes.

        Args:
            spec: what `spec()` gave.
            features: d, the number of features.
            classes: C.
        """
        cls.resolved(options_of(spec), classes)
        return cls(features)

    def forward(self, features: Tensor) -> Tensor:
        """(N, d) features of features (N, d)."""
        return features


HEADS.add(FeaturesHead.name, FeaturesHead)
