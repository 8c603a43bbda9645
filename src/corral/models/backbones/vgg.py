"""VGG with BatchNorm (Simonyan and Zisserman 2015), for MNIST-size and CIFAR images as in MAT."""

from torch import Tensor, nn

from corral.models.backbones.backbone import Backbone
from corral.models.backbones.base import register_backbone
from corral.models.layout import channels_last
from corral.options import Count, Depth

# Convolutions in each of the five stages; stage s has width × (1, 2, 4, 8, 8)[s] channels.
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
FACTORS = (1, 2, 4, 8, 8)


@register_backbone("vgg")
class VGG(Backbone):
    """3×3 convolutions with BatchNorm and ReLU, max-pooling after each stage, average pooling; d = 8 × width.

    The pooling rounds up, so that 28×28 passes its five stages as 32×32 does. The fully connected layers of the
    ImageNet form are left out, as usual for small images.

    Args:
        in_channels: channels of the images.
        width: channels of the first stage (64 in the paper).
        depth: 11, 13, 16 or 19.

    Raises:
        ValueError: no such depth.
    """

    def __init__(self, in_channels: int = 3, width: Count = 64, depth: Depth = 16) -> None:
        super().__init__()
        if depth not in STAGES:
            raise ValueError(f"vgg depth must be one of {', '.join(map(str, STAGES))}, found {depth}")
        self.features_dim = 8 * width
        layers: list[nn.Module] = []
        channels = in_channels
        for count, factor in zip(STAGES[depth], FACTORS, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, factor * width, 3, padding=1, bias=False)]
                channels = factor * width
                layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 8 × width) features of images x, (N, C, H, W)."""
        maps: Tensor = self.layers(channels_last(x, self))
        return maps.mean((2, 3))
