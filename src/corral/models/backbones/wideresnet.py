"""WideResNet (Zagoruyko and Komodakis 2016), as in MAT and adversarial training."""

from torch import Tensor, nn
from torch.nn import functional

from corral.models.backbones.backbone import Backbone
from corral.models.backbones.base import register_backbone
from corral.models.backbones.resnet import residual_stages
from corral.models.layout import channels_last
from corral.models.pointwise import Pointwise
from corral.options import Count, Depth


class PreActivationBlock(nn.Module):
    """BatchNorm, ReLU, 3×3 convolution, twice, with a shortcut; no dropout."""

    normalised = (("conv1", "bn2"),)

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.project = Pointwise(channels, width, stride) if channels != width else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H / stride, W / stride) maps."""
        activated = functional.relu(self.bn1(x))
        # A projected shortcut starts from the activated input, an identity from the raw one.
        shortcut = x if self.project is None else self.project(activated)
        out: Tensor = self.conv2(functional.relu(self.bn2(self.conv1(activated))))
        return out + shortcut


@register_backbone("wideresnet")
class WideResNet(Backbone):
    """WRN-depth-width with three stages and average pooling; d = 64 × width.

    Args:
        in_channels: channels of the images.
        depth: 6 n + 4 layers (28 and 34 in the papers).
        width: the widening factor (10 in the papers).

    Raises:
        ValueError: the depth is not 6 n + 4.
    """

    def __init__(self, in_channels: int = 3, depth: Depth = 28, width: Count = 10) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"wideresnet depth must be 6 n + 4 (10, 16, 22, 28, 34), found {depth}")
        self.features_dim = 64 * width
        self.stem = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        widths = [16 * width, 32 * width, 64 * width]
        self.blocks = residual_stages(PreActivationBlock, 16, widths, [(depth - 4) // 6] * 3)
        self.bn = nn.BatchNorm2d(64 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 64 × width) features of images x, (N, C, H, W)."""
        maps = functional.relu(self.bn(self.blocks(self.stem(channels_last(x, self)))))
        return maps.mean((2, 3))
