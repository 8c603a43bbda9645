"""Multilayer perceptron on flattened images."""

from torch import Tensor, nn

from corral.models.backbones.backbone import Backbone
from corral.models.backbones.base import register_backbone
from corral.options import Count


@register_backbone("mlp")
class MLP(Backbone):
    """Linear layers with ReLU between them, on flattened input.

    Args:
        in_features: channels × height × width.
        hidden: widths of the hidden layers; may be empty.
        features: d, the width of the last layer.
        rectify: end with a ReLU, as a backbone whose last linear layer was removed does.
    """

    def __init__(
        self, in_features: int, hidden: tuple[Count, ...] = (256,), features: Count = 64, rectify: bool = True
    ) -> None:
        super().__init__()
        self.features_dim = features
        layers: list[nn.Module] = [nn.Flatten()]
        for width in hidden:
            layers += [nn.Linear(in_features, width), nn.ReLU()]
            in_features = width
        layers.append(nn.Linear(in_features, features))
        if rectify:
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) features of images x, (N, C, H, W), or of (N, in_features) rows."""
        features: Tensor = self.layers(x)
        return features
