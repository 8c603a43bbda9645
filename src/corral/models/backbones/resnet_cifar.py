"""The narrow ResNets that He et al. (2016) made for CIFAR-10: three stages of 16, 32 and 64 channels."""

from torch import Tensor, nn
from torch.nn import functional

from corral.models.backbones.backbone import Backbone
from corral.models.backbones.base import register_backbone
from corral.models.backbones.resnet import BasicBlock, residual_stages
from corral.models.layout import channels_last
from corral.options import Count, Depth


class Subsample(nn.Module):
    """Every stride-th pixel of every stride-th row, and channels of zeros after those there are: no parameters.

    Args:
        channels: of the maps given.
        width: of the maps returned, at least as many.
        stride: in both directions.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.added, self.stride = width - channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H / stride, W / stride) maps, sizes rounded up."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))

    def lipschitz_bound(self, input_shape: tuple[int, ...]) -> float:
        """1: pixels are left out, none is changed."""
        return 1.0


class PaddedBlock(BasicBlock):
    """A basic block whose shortcut is never projected (option A of He et al.)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__(channels, width, stride)
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(Subsample(channels, width, stride))


@register_backbone("resnet-cifar")
class ResNetCifar(Backbone):
    """ResNet with a 3×3 stem, three stages of basic blocks and average pooling; d = 4 × width.

    Args:
        in_channels: channels of the images.
        width: channels of the first stage (16 in the papers).
        depth: 6 n + 2 layers (20, 32, 44, 56 and 110 in the papers).

    Raises:
        ValueError: the depth is not 6 n + 2.
    """

    def __init__(self, in_channels: int = 3, width: Count = 16, depth: Depth = 32) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"resnet-cifar depth must be 6 n + 2 (20, 32, 44, 56, 110), found {depth}")
        self.features_dim = 4 * width
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = residual_stages(PaddedBlock, width, [width, 2 * width, 4 * width], [(depth - 2) // 6] * 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4 × width) features of images x, (N, C, H, W)."""
        maps: Tensor = self.blocks(self.stem(channels_last(x, self)))
        return maps.mean((2, 3))
