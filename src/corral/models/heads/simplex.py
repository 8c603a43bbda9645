"""A cluster head that is not fitted: one centroid a class on a regular simplex, its scale trained."""

from collections.abc import Mapping
from typing import Any

import torch

from corral.geometry.centres import max_mahalanobis_centres
from corral.models.heads.base import HEADS, options_of
from corral.models.heads.cluster import ClusterHead
from corral.options import Positive, option_names, read_options


class SimplexHead(ClusterHead):
    """A `ClusterHead` whose unit-length centroids m are fixed as far apart as can be (Pang et al. 2018, Algorithm 1).

    Its logits are, up to what is equal for all classes, scale × f · m, and the nearest centroid decides. The scale is
    a parameter that any method trains with the network: how much a fixed length of centroids suits depends on it. A
    recipe asks for it by `[model] head = "simplex"`; what is made, saved and read is a `ClusterHead`.
    """

    name = "simplex"
    fitted = False

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """The scale that training begins at."""
        return option_names(_simplex_options)

    @classmethod
    def resolved(cls, options: Mapping[str, Any], classes: int) -> dict[str, Any]:
        """The scale, 1 by default.

        Raises:
            ValueError: another option, or a scale that is not positive.
        """
        return read_options(_simplex_options, values=options, what=f"head {cls.name!r}")

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], features: int, classes: int) -> ClusterHead:
        """The cluster head.

        Raises:
            ValueError: fewer features than C - 1, or impossible options.
        """
        scale = cls.resolved(options_of(spec), classes)["scale"]
        centroids = max_mahalanobis_centres(classes, features)
        head = ClusterHead(centroids, torch.arange(classes), 1.0, rule="nearest", temperature=1 / scale)
        head.log_temperature.requires_grad_(True)
        return head


def _simplex_options(*, scale: Positive = 1.0) -> None:
    """The options of a simplex head."""


HEADS.add(SimplexHead.name, SimplexHead)
