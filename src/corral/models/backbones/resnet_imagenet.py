"""ResNet for images of 64 pixels and more (He et al. 2016): a 7×7 stem with stride 2 and a pooling."""

from torch import Tensor, nn
from torch.nn import functional

from corral.models.backbones.backbone import Backbone
from corral.models.backbones.base import register_backbone
from corral.models.layout import channels_last
from corral.models.pointwise import Pointwise
from corral.options import Count, Depth

# Blocks of each stage, and whether they are bottlenecks, which widen their maps fourfold.
BLOCKS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
WIDENED = 4


class ImageNetBlock(nn.Module):
    """Two 3×3 convolutions, or one between two 1×1 ones (a bottleneck), with a shortcut, projected where shapes differ.

    Tensors are called as torchvision calls them, so that published weights fit. A bottleneck's stride is that of its
    3×3 convolution, as there and in all published robust models; the paper's was that of the first.

    Args:
        channels: of the maps given.
        width: of the 3×3 convolutions.
        stride: 1 or 2.
        bottleneck: whether the block is one; its maps have 4 × width channels.
    """

    normalised = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, channels: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        out = width * WIDENED if bottleneck else width
        self.bottleneck = bottleneck
        self.conv1: nn.Conv2d = (
            Pointwise(channels, width) if bottleneck else nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride if bottleneck else 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        if bottleneck:
            self.conv3, self.bn3 = Pointwise(width, out), nn.BatchNorm2d(out)
        self.downsample = nn.Sequential()
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(Pointwise(channels, out, stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, out, H / stride, W / stride) maps, sizes rounded up."""
        maps = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            maps = self.bn3(self.conv3(functional.relu(maps)))
        return functional.relu(maps + self.downsample(x))


@register_backbone("resnet-imagenet")
class ResNetImageNet(Backbone):
    """ResNet with a 7×7 stem of stride 2, max pooling, four stages and average pooling: maps of 1/32 of the sides.

    d = 32 × width from depth 50 on, else 8 × width: 2,048 of ResNet-50.

    Args:
        in_channels: channels of the images.
        width: channels of the first stage (64 in the papers; less for small nets).
        depth: 18, 34, 50, 101 or 152 layers.

    Raises:
        ValueError: no such depth.
    """

    normalised = (("conv1", "bn1"),)

    def __init__(self, in_channels: int = 3, width: Count = 64, depth: Depth = 50) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"resnet-imagenet depth must be one of {', '.join(map(str, BLOCKS))}, found {depth}")
        counts, bottleneck = BLOCKS[depth]
        self.conv1, self.bn1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        channels = width
        for stage, count in enumerate(counts):
            blocks: list[nn.Module] = []
            for place in range(count):
                stride = 2 if stage and not place else 1
                blocks.append(ImageNetBlock(channels, width * 2**stage, stride, bottleneck=bottleneck))
                channels = width * 2**stage * (WIDENED if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.features_dim = channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) features of images x, (N, C, H, W)."""
        maps = channels_last(x, self)
        for part in self.children():  # in the order in which they were made
            maps = part(maps)
        return maps.mean((2, 3))
