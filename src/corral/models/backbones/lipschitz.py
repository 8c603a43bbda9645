"""A 1-Lipschitz network for small images, by construction."""

from typing import Literal, get_args

from torch import Tensor, nn

from corral.models.backbones.backbone import Backbone
from corral.models.backbones.base import register_backbone
from corral.models.lipschitz.isometries import HalfAbs, Shift, SpaceToDepth
from corral.models.lipschitz.orthogonal import Orthogonal
from corral.models.lipschitz.sll import SLL
from corral.options import Count, Depth

LayerKind = Literal["dense", "shift", "sll"]


@register_backbone("lipschitz")
class LipschitzNet(Backbone):
    """Layers that are 1-Lipschitz in l2, one after the other, and an orthonormal projection to d features.

    Of the kind "dense", the pixels are mixed orthogonally to `width` values, `depth` times again, half of the values
    turned to their absolute values each time. The other kinds work on maps: they are halved twice by space-to-depth, an
    orthogonal mixing to `width` channels (2 × width the second time) follows, then `depth` blocks. A block of "shift"
    moves some channels by a pixel, mixes all orthogonally and takes the absolute value of half, an isometry in all
    (LipNeXt, Hu et al., ICLR 2026, with Cayley's transform for its manifold optimiser); one of "sll" is a 3×3 `SLL`.

    Args:
        in_channels: channels of the images.
        image_size: side of square images, or (H, W); for kinds other than "dense" both divisible by 4.
        width: values of a dense layer, or channels of the first stage of maps.
        depth: blocks; of maps, in each of the two stages.
        features: d.
        layer: the kind of the blocks.

    Raises:
        ValueError: one of these conditions fails.
    """

    one_lipschitz = True

    def __init__(
        self,
        in_channels: int,
        image_size: int | tuple[int, int],
        width: Count = 256,
        depth: Depth = 2,
        features: Count = 64,
        layer: LayerKind = "dense",
    ) -> None:
        super().__init__()
        height, breadth = (image_size, image_size) if isinstance(image_size, int) else image_size
        if layer not in get_args(LayerKind):
            raise ValueError(f"layer must be 'dense', 'shift' or 'sll', found {layer!r}")
        if layer != "dense" and (height % 4 or breadth % 4):
            raise ValueError(f"maps of kind {layer!r} need sides divisible by 4, found {height}×{breadth}")
        values = width if layer == "dense" else 2 * width * (height // 4) * (breadth // 4)
        self.features_dim = features
        layers: list[nn.Module] = []
        if layer == "dense":
            layers += [nn.Flatten(), Orthogonal(in_channels * height * breadth, width), HalfAbs()]
            for _ in range(depth):
                layers += [Orthogonal(width, width), HalfAbs()]
        else:
            channels = in_channels
            for out in (width, 2 * width):
                layers += [SpaceToDepth(), Orthogonal(4 * channels, out)]
                channels = out
                for place in range(depth):
                    layers += _block(channels, layer, 2 + place % 2)
            layers.append(nn.Flatten())
        self.layers = nn.Sequential(*layers, Orthogonal(values, features, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) features of images x, (N, C, H, W)."""
        features: Tensor = self.layers(x)
        return features


def _block(channels: int, layer: LayerKind, axis: int) -> list[nn.Module]:
    if layer == "sll":
        return [SLL(channels, channels, kernel=3)]
    return [Shift(axis), Orthogonal(channels, channels), HalfAbs()]
