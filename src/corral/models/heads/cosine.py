"""A classifier by clusters on the sphere: logits from the cosines of features and centroids."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.geometry.centres import turned_simplex
from corral.geometry.radii import nearest_radius, soft_radius
from corral.geometry.radii.rounding import UNIT, below
from corral.geometry.scores import class_index
from corral.models.heads.base import HEADS, Clusters, Head
from corral.options import Count, Positive
from corral.precision import full_precision

# A shorter vector is divided by this: features of 0 have cosine 0 with everything.
SHORTEST = 1e-12


def _directions(vectors: Tensor) -> Tensor:
    """(N, d) vectors scaled to length one."""
    return functional.normalize(vectors, dim=1, eps=SHORTEST)


@full_precision
def _cosine_logits(features: Tensor, centroids: Tensor, scale: Tensor | float, per_class: int, rule: str) -> Tensor:
    cosines = _directions(features) @ _directions(centroids).T
    scores: Tensor = (scale * cosines).view(-1, len(centroids) // per_class, per_class)
    return scores.amax(2) if rule == "nearest" else scores.logsumexp(2)


class CosineHead(Head):
    """Logits from the cosines of features with centroids: scale × the largest of a class's, or a log-sum-exp of all.

    The centroids are parameters: any method that trains a head by its logits trains them, unless they are `fixed` on a
    regular simplex, as far apart as can be. Lengths never count, neither of features nor of centroids. Everything runs
    in float32 or wider.

    Args:
        features: d.
        classes: C.
        clusters_per_class: centroids of each class.
        scale: what cosines are multiplied by, > 0; where `trained_scale`, at the beginning.
        rule: "nearest" takes a class's best cosine, "soft" the log-sum-exp of scale × all of them.
        fixed: one centroid a class, on a regular simplex, never trained.
        trained_scale: the scale is a parameter too.

    Raises:
        ValueError: fixed centroids of more than one a class, or of more classes than features + 1.
    """

    name = "cosine"

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        clusters_per_class: Count = 1,
        scale: Positive = 10.0,
        rule: Literal["nearest", "soft"] = "nearest",
        fixed: bool = False,
        trained_scale: bool = False,
    ) -> None:
        super().__init__()
        self.features_dim, self.num_classes = features, classes
        self.clusters_per_class, self.scale, self.rule = clusters_per_class, scale, rule
        self.fixed, self.trained_scale = fixed, trained_scale
        if fixed and clusters_per_class > 1:
            raise ValueError(f"fixed centroids are one a class: leave clusters_per_class {clusters_per_class} out")
        if fixed:
            self.centroids = nn.Parameter(turned_simplex(classes, features), requires_grad=False)
        else:
            self.centroids = nn.Parameter(torch.randn(classes * clusters_per_class, features))
        if trained_scale:
            self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    @property
    def effective_scale(self) -> Tensor | float:
        """The scale as it is now."""
        return self.log_scale.exp() if self.trained_scale else self.scale

    def _scale(self) -> float:
        """The same as a number."""
        return float(self.log_scale.detach().exp()) if self.trained_scale else self.scale

    def forward(self, features: Tensor) -> Tensor:
        """(N, C) logits of features (N, d)."""
        return _cosine_logits(features, self.centroids, self.effective_scale, self.clusters_per_class, self.rule)

    @property
    def clusters(self) -> Clusters:
        """The centroids' directions: the nearest one is that of the largest cosine, of features of any length."""
        centroids = _directions(self.centroids.detach())
        classes = torch.arange(self.num_classes, device=centroids.device).repeat_interleave(self.clusters_per_class)
        variance = centroids.new_tensor(1 / self._scale())
        index = class_index(classes).to(centroids.device)
        return Clusters(centroids, classes, index, variance, variance, rule=self.rule, by_distance=False)

    def certified_radius(self, features: Tensor, *, lipschitz: float = 1.0) -> Tensor:
        """(N,) radii: exact by the rule "nearest", or with one centroid a class; a bound by the rule "soft".

        The largest cosine is that of the nearest of the centroids' directions m, and its boundaries are planes through
        0. So the radius at f is ||f|| times that of the nearest rule at u = f / ||f||.

        The soft rule at unit vectors is that of Eq. 4 with variance 1 / scale, whose `soft_radius` rho at u holds for
        all p with ||p - u|| < rho. A move shorter than ||f|| sin(a), a <= 90°, turns f by less than a, and so moves u
        by less than 2 sin(a / 2). With 2 sin(a / 2) = rho, ||f|| sin(a) = ||f|| rho sqrt(1 - rho^2 / 4).

        Directions are known in float64 to `error`; m and u may be off by it, comparisons by a multiple.

        Args:
            features: (N, d).
            lipschitz: constant of everything before the head; radii are divided by it.

        Raises:
            ValueError: centroids of length 0, or what the radii refuse.
        """
        if not 0 < lipschitz < float("inf"):
            raise ValueError(f"lipschitz must be positive and finite, found {lipschitz}")
        points, centroids = features.double(), self.centroids.detach().double()
        if not bool((centroids.norm(dim=1) > SHORTEST).all()):
            raise ValueError(f"a direction needs centroids longer than {SHORTEST:g}")
        classes = self.clusters.classes
        lengths, error = points.norm(dim=1), (points.shape[1] + 16) * UNIT
        # Divided twice, so that tiny features have a direction too.
        largest = points.abs().amax(1, keepdim=True)
        at = _directions(points / torch.where(largest > 0, largest, 1.0))
        centres, slack = _directions(centroids / centroids.abs().amax(1, keepdim=True)), 8 * error
        if self.rule == "nearest" or self.clusters_per_class == 1:
            shares = nearest_radius(at, centres, classes, slack=slack) - error
        else:
            rho = soft_radius(at, centres, classes, 1 / self._scale(), slack=slack) - error
            rho = rho.clamp(0, 2**0.5 * (1 - error))
            shares = rho * (1 - rho.square() / 4).sqrt()
        # Below `SHORTEST` features are no longer divided by their length, which the soft rule would see.
        radii = torch.minimum(shares * lengths * (1 - error), lengths - 2 * SHORTEST)
        return below(radii / lipschitz)


HEADS.add(CosineHead.name, CosineHead)
