"""What a classifier asks of its backbone."""

from torch import nn


class Backbone(nn.Module):
    """Images (N, channels, H, W) to features (N, features_dim).

    Attacks run it with its kernels in the channels-last memory format: it must not count on strides (`flatten`, not
    `view`).
    """

    features_dim: int
