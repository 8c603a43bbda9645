"""What methods with fixed class centres share: a cluster head that is never fitted, and attacks on features."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from corral.errors import UsageError
from corral.geometry import max_mahalanobis_centres, packed_centres
from corral.models import ClusterHead, Head
from corral.training.methods.base import Context, Method
from corral.training.recipes.base import Config, InnerAttack, Positive

PLACINGS: dict[str, Callable[..., Tensor]] = {"simplex": max_mahalanobis_centres, "packed": packed_centres}


class Centres(Config):
    """Class centres that stay where they are, all of one `length` (10 in MMC; MAT's loss is blind to it).

    "simplex" is max-Mahalanobis (MAT Eq. 3) and needs C - 1 features; "packed" is the best found by a search in fewer.
    """

    placing: Literal["simplex", "packed"] = "simplex"
    length: Positive = 10.0


class CentreMethod(Method):
    """A method whose head has one fixed centre a class, all of equal length.

    Its logits are then f · mu / sigma^2 up to a constant, sigma^2 = 1: the largest is that of the largest cosine and of
    the nearest centre at once (MAT Eqs. 5 and 11).

    Raises:
        UsageError: too few features for the centres.
    """

    def __init__(self, context: Context, options: Any) -> None:
        super().__init__(context, options)
        centres: Centres = options.centres
        place = PLACINGS[centres.placing]
        try:
            found = place(context.num_classes, context.model.features_dim, length=centres.length)
        except ValueError as error:
            raise UsageError(
                f"method.centres.placing '{centres.placing}': {error} (model.features, model.width or 'packed')"
            ) from None
        self.centres = found.to(context.device)

    def make_head(self) -> Head:
        classes = torch.arange(len(self.centres), device=self.centres.device)
        return ClusterHead(self.centres, classes, 1.0)

    def start(self) -> None:
        self.model.head = self.make_head()

    def max_loss_attack(
        self, x: Tensor, y: Tensor, inner: InnerAttack, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """The batch's images in the eps-ball of the largest loss, (n, d) features and (n,) labels to (n,) values."""
        return self.adversarial(self.features_model, x, y, inner, loss)
