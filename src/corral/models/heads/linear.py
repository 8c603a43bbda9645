"""The baselines' head: one affine map."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.errors import UsageError
from corral.geometry.radii import linear_radius
from corral.models.heads.base import HEADS, Head
from corral.models.modes import eval_mode
from corral.models.plain import kind_of
from corral.precision import full_precision

_affine = full_precision(functional.linear)


class LinearHead(Head):
    """The baselines' head: one affine map, always in float32 or wider.

    Args:
        features: d.
        classes: C.
    """

    name = "linear"

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.features_dim, self.num_classes = features, classes
        self.linear = nn.Linear(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C) logits of features (N, d)."""
        return _affine(features, self.linear.weight, self.linear.bias)

    def certified_radius(self, features: Tensor, *, lipschitz: float = 1.0) -> Tensor:
        """(N,) exact radii, `linear_radius`; see `Head.certified_radius`.

        Args:
            features: (N, d).
            lipschitz: constant of everything before the head; radii are divided by it.

        Raises:
            UsageError: `linear` is of another type than `nn.Linear`.
        """
        if kind_of(self.linear) is not nn.Linear:
            raise UsageError(f"head.linear must be an nn.Linear to have a radius, found {type(self.linear).__name__}")
        # Of a weight parametrized by spectral_norm, reading it changes it in train mode.
        with eval_mode(self), torch.no_grad():
            weight, bias = self.linear.weight, self.linear.bias
        return linear_radius(features, weight, bias, lipschitz=lipschitz)


HEADS.add(LinearHead.name, LinearHead)
