"""Small convolutional network for digits and MNIST-size images."""

from torch import Tensor, nn

from corral.models.backbones.backbone import Backbone
from corral.models.backbones.base import register_backbone
from corral.models.layout import channels_last
from corral.options import Count


@register_backbone("convnet")
class ConvNet(Backbone):
    """Two 3×3 convolutions, each halved by max-pooling, and a linear layer.

    Rectified after pooling: the same features and gradients as before it, for a quarter of the work.

    Args:
        in_channels: channels of the images.
        image_size: side of square images, or (H, W); at least 4.
        width: channels of the first convolution; the second has twice as many.
        features: d, the width of the linear layer.
        rectify: end with a ReLU, as a backbone whose last linear layer was removed does.

    Raises:
        ValueError: the images are too small to be halved twice.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int | tuple[int, int],
        width: Count = 32,
        features: Count = 64,
        rectify: bool = True,
    ) -> None:
        super().__init__()
        height, breadth = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, breadth) < 4:
            raise ValueError(f"a ConvNet needs images of at least 4×4, found {height}×{breadth}")
        self.features_dim = features
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * (height // 4) * (breadth // 4), features),
            nn.ReLU() if rectify else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) features of images x, (N, C, H, W)."""
        features: Tensor = self.layers(channels_last(x, self))
        return features
