"""What a classifier asks of its backbone."""

from torch import nn


class Backbone(nn.Module):
    """Images (N, channels, H, W) to features (N, features_dim).

    Where all modules in it are torch's or corral's own and none is a strided 1×1 `nn.Conv2d` (`Pointwise` is the safe
    form), attacks run it with its kernels in the channels-last memory format: it must not count on strides (`flatten`,
    not `view`). A class of your own is never converted.
    """

    features_dim: int
