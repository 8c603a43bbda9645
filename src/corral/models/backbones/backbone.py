"""What a classifier asks of its backbone."""

from typing import ClassVar

from torch import nn

Shape = tuple[int, int, int]


class Backbone(nn.Module):
    """Images (N, channels, H, W) to features (N, features_dim).

    Where all modules in it are torch's or corral's own and none is a strided 1×1 `nn.Conv2d` (`Pointwise` is the safe
    form), attacks run it with its kernels in the channels-last memory format: it must not count on strides (`flatten`,
    not `view`). A class of your own is never converted.

    Attributes:
        features_dim: d.
        features_source: where in a network that was not written for corral its features are, in words.
        one_lipschitz: whether it is 1-Lipschitz in l2 by construction, whatever its weights, so that training may count
            on it; certificates compute their own bound.
    """

    features_dim: int
    features_source: str = "what it returns"
    one_lipschitz: ClassVar[bool] = False
