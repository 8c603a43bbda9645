"""The radius that goes with a head: that of the very rule which the head decides by."""

import torch
from torch import Tensor, nn

from corral.certify.linear import linear_radius
from corral.certify.nearest import nearest_radius
from corral.certify.plain import kind_of, require_plain_inside
from corral.certify.soft import soft_radius
from corral.errors import UsageError
from corral.models import ClusterHead
from corral.models.heads import Head, LinearHead
from corral.models.modes import eval_mode


def head_radius(head: Head, features: Tensor, *, lipschitz: float = 1.0) -> Tensor:
    """(N,) l2 radii within which a head's decision on each feature cannot change, in eval mode.

    The nearest rule, and D = 1, have `nearest_radius` (exact); the soft rule, and D of all clusters, `soft_radius`; a
    linear head `linear_radius`. The head's type must be exactly `ClusterHead` or `LinearHead`, since a subclass may
    decide by something else, and its own `forward` all that runs (`certify.plain`).

    Args:
        head: a cluster or a linear head.
        features: (N, d) finite.
        lipschitz: an upper bound on the backbone's l2 Lipschitz constant, > 0: radii are divided by it.

    Raises:
        UsageError: another kind of head, a subclass, or one with a forward hook or a method replaced; clusters whose
            classes were set past `refit`; a rule of D nearest clusters with 1 < D < all, whose scores jump where
            another cluster becomes one of the D, so that no such radius exists; or "fuzzy", for which none is known.
        ValueError: what the radius itself refuses; an effective variance that is not positive and finite.
    """
    if type(head) not in (ClusterHead, LinearHead):
        raise UsageError(
            f"a {type(head).__name__} has no radius: only heads of exactly the types ClusterHead and LinearHead have "
            "one, a subclass may decide otherwise; certify a cluster or a linear head"
        )
    require_plain_inside(head, "head")
    if isinstance(head, LinearHead):
        if kind_of(head.linear) is not nn.Linear:
            raise UsageError(f"head.linear must be an nn.Linear to have a radius, found {type(head.linear).__name__}")
        # Of a weight parametrized by spectral_norm, reading it changes it in train mode.
        with eval_mode(head), torch.no_grad():
            weight, bias = head.linear.weight, head.linear.bias
        return linear_radius(features, weight, bias, lipschitz=lipschitz)
    assert isinstance(head, ClusterHead)
    _check_clusters(head)
    if head.rule == "nearest" or head.rule == 1:
        return nearest_radius(features, head.centroids, head.classes, lipschitz=lipschitz)
    if head.rule == "soft" or head.rule == len(head.centroids):
        variance = float(head.effective_variance)
        return soft_radius(features, head.centroids, head.classes, variance, lipschitz=lipschitz)
    if head.rule == "fuzzy":
        raise UsageError('rule "fuzzy" has no certificate: certify the rule "nearest", "soft" or 1')
    raise UsageError(
        f"rule {head.rule} of {len(head.centroids)} clusters cannot be certified: its scores jump where another "
        'cluster becomes one of the nearest; certify the rule "nearest", "soft" or 1'
    )


def _check_clusters(head: ClusterHead) -> None:
    """Refuse buffers that do not go together: radii are of the centroids' classes, decisions by the index of them."""
    variance = float(head.effective_variance)
    if not 0 < variance < float("inf"):
        raise ValueError(f"a head's effective variance must be positive and finite, found {variance}")
    count = len(head.centroids)
    rows, places = (head.index < count).nonzero(as_tuple=True)
    owners = torch.full_like(head.classes, -1)
    owners[head.index[rows, places]] = rows
    if len(rows) != count or not torch.equal(owners, head.classes):
        raise UsageError("the head decides by other classes of its centroids than it holds: set clusters by refit")
