"""ResNet for 32×32 images (He et al. 2016, in the form that the robustness papers use)."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from corral.models.backbones.backbone import Backbone
from corral.models.backbones.base import register_backbone
from corral.models.layout import channels_last
from corral.models.pointwise import Pointwise
from corral.options import Count, Depth

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut, projected where the shape changes."""

    normalised = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(Pointwise(channels, width, stride), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H / stride, W / stride) maps."""
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def residual_stages(
    block: Callable[[int, int, int], nn.Module], channels: int, widths: Sequence[int], counts: Sequence[int]
) -> nn.Sequential:
    """Stages of residual blocks; each but the first halves the maps in its first block.

    Args:
        block: of input channels, output channels and stride.
        channels: of the maps given.
        widths: channels of each stage.
        counts: blocks of each stage.
    """
    blocks = []
    for stage, (width, count) in enumerate(zip(widths, counts, strict=True)):
        for place in range(count):
            blocks.append(block(channels, width, 2 if stage and not place else 1))
            channels = width
    return nn.Sequential(*blocks)


@register_backbone("resnet")
class ResNet(Backbone):
    """ResNet with a 3×3 stem, no stem pooling, four stages and average pooling; d = 8 × width.

    Args:
        in_channels: channels of the images.
        width: channels of the first stage (64 in the papers; less for small nets).
        depth: 10, 18 or 34 layers.

    Raises:
        ValueError: no such depth.
    """

    def __init__(self, in_channels: int = 3, width: Count = 64, depth: Depth = 18) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"resnet depth must be one of {', '.join(map(str, BLOCKS))}, found {depth}")
        self.features_dim = 8 * width
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = residual_stages(BasicBlock, width, [width, 2 * width, 4 * width, 8 * width], BLOCKS[depth])

    def forward(self, x: Tensor) -> Tensor:
        """(N, 8 × width) features of images x, (N, C, H, W)."""
        maps: Tensor = self.blocks(self.stem(channels_last(x, self)))
        return maps.mean((2, 3))
