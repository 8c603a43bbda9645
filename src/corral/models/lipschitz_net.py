"""A 1-Lipschitz network for small images, by construction."""

from typing import Literal, get_args

from torch import Tensor, nn

from corral.models.backbone import Backbone
from corral.models.isometries import HalfAbs, Shift, SpaceToDepth
from corral.models.orthogonal import Orthogonal
from corral.models.sll import SLL

LayerKind = Literal["shift", "sll"]


class LipschitzNet(Backbone):
    """Two halvings by space-to-depth, `depth` blocks after each, and an orthonormal projection to d features.

    Every layer is 1-Lipschitz in l2, so the network is. A block of the kind "shift" moves some channels by a pixel,
    mixes all orthogonally and takes the absolute value of half of them, an isometry in all (LipNeXt, Hu et al., ICLR
    2026, with Cayley's transform for its manifold optimiser); one of the kind "sll" is a 3×3 `SLL` convolution.

    Args:
        in_channels: channels of the images.
        image_size: side of square images, or (H, W); both divisible by 4.
        width: channels of the first stage; the second has twice as many.
        depth: blocks a stage.
        features: d, at most the values of the last maps.
        layer: the kind of the blocks.

    Raises:
        ValueError: one of these conditions fails.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int | tuple[int, int],
        width: int = 64,
        depth: int = 4,
        features: int = 64,
        layer: LayerKind = "shift",
    ) -> None:
        super().__init__()
        height, breadth = (image_size, image_size) if isinstance(image_size, int) else image_size
        if height % 4 or breadth % 4:
            raise ValueError(f"a lipschitz net needs sides divisible by 4, found {height}×{breadth}")
        if layer not in get_args(LayerKind):
            raise ValueError(f"layer must be 'shift' or 'sll', found {layer!r}")
        values = 2 * width * (height // 4) * (breadth // 4)
        if features > values:
            raise ValueError(f"features must be at most the {values} values of the last maps, found {features}")
        self.features_dim = features
        layers: list[nn.Module] = []
        channels = in_channels
        for out in (width, 2 * width):
            layers += [SpaceToDepth(), Orthogonal(4 * channels, out)]
            channels = out
            for place in range(depth):
                layers += _block(channels, layer, 2 + place % 2)
        self.layers = nn.Sequential(*layers, nn.Flatten(), Orthogonal(values, features, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) features of (N, C, H, W) images."""
        features: Tensor = self.layers(x)
        return features


def _block(channels: int, layer: LayerKind, axis: int) -> list[nn.Module]:
    if layer == "sll":
        return [SLL(channels, channels, kernel=3)]
    return [Shift(axis), Orthogonal(channels, channels), HalfAbs()]
