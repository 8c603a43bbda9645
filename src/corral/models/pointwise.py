"""A strided 1×1 convolution that is safe in every memory format."""

from torch import Tensor, nn
from torch.nn import functional


class Pointwise(nn.Conv2d):
    """A 1×1 convolution: the pixels that its stride keeps are picked first, then convolved with stride 1.

    Output, gradients and `state_dict` are those of `nn.Conv2d(channels, width, 1, stride)` up to rounding, at the same
    speed. That form is not taken because its float32 weight gradient (torch 2.13, oneDNN 3.12) writes outside its
    buffer where images or kernels lie with channels last: with AVX-512 below 16 channels, at stride 2 from sides of 48
    pixels on; with AVX2 below 8 channels, at 32 already. The process dies without a message, or goes on with damaged
    memory. No other kernel, dtype or direction was found to (the scan: docs/attacks.md, "Order in memory").

    Args:
        channels: channels of the input.
        width: channels of the output.
        stride: along both axes, at least 1.
        bias: whether a bias is added.
    """

    def __init__(self, channels: int, width: int, stride: int = 1, *, bias: bool = False) -> None:
        super().__init__(channels, width, 1, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, ⌈H / stride⌉, ⌈W / stride⌉) maps of (N, channels, H, W)."""
        # Averages of one pixel each: what x[:, :, ::s, ::s] picks, with a gradient that keeps the order in memory.
        picked = x if self.stride == (1, 1) else functional.avg_pool2d(x, 1, self.stride)
        return functional.conv2d(picked, self.weight, self.bias)
