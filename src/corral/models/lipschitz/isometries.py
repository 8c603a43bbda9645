"""Maps of feature maps that are 1-Lipschitz by nature, without weights: permutations and absolute values."""

import torch
from torch import Tensor, nn


class Isometric(nn.Module):
    """A map that moves values or their signs without computing new ones: no rounding, Lipschitz constant 1."""

    def lipschitz_bound(self, input_shape: tuple[int, ...]) -> float:
        """1, exactly."""
        return 1.0


class HalfAbs(Isometric):
    """The absolute value of the first half of the channels, the rest as it is: an isometry wherever it is smooth.

    Between orthogonal mixings it is the same as sorting pairs (MaxMin: Anil et al., ICML 2019), which is the absolute
    value of the pair's difference in a basis turned by 45 degrees, at a sixth of the time on a CPU (LipNeXt's beta-Abs,
    Hu et al., ICLR 2026).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Of x (N, C, ...), in the same shape."""
        half = x.shape[1] // 2
        return torch.cat([x[:, :half].abs(), x[:, half:]], 1)


class SpaceToDepth(Isometric):
    """(N, C, H, W) to (N, 4 C, H / 2, W / 2): every 2×2 square becomes channels; nothing is lost, unlike by pooling."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4 C, H / 2, W / 2) of x (N, C, H, W)."""
        return nn.functional.pixel_unshuffle(x, 2)


class Shift(Isometric):
    """A quarter of the channels moves by a pixel in each direction of one axis, the rest stays; the edges wrap around.

    With orthogonal mixings before and after, a shift is a factor of an orthogonal convolution (Li et al., NeurIPS
    2019, whose factors are P + (I - P) shifted, P a projection), at the price of 1×1 products (LipNeXt, Hu et al.,
    ICLR 2026).

    Args:
        axis: 2 moves along the height, 3 along the width.
    """

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Of x (N, C, H, W), in the same shape."""
        quarter = x.shape[1] // 4
        forth, back, rest = torch.tensor_split(x, (quarter, 2 * quarter), 1)
        return torch.cat([forth.roll(1, self.axis), back.roll(-1, self.axis), rest], 1)

    def extra_repr(self) -> str:
        """Which axis."""
        return f"axis={self.axis}"
