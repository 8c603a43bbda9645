"""What a classifier asks of its backbone."""

from torch import nn


class Backbone(nn.Module):
    """Images (N, channels, H, W) to features (N, features_dim)."""

    features_dim: int
