"""The radius that goes with a head: that of the very rule which the head decides by."""

from torch import Tensor

from corral.certify.linear import linear_radius
from corral.certify.nearest import nearest_radius
from corral.certify.soft import soft_radius
from corral.errors import UsageError
from corral.models import ClusterHead
from corral.models.heads import Head, LinearHead


def head_radius(head: Head, features: Tensor, *, lipschitz: float = 1.0) -> Tensor:
    """(N,) l2 radii within which a head's decision on each feature cannot change.

    The nearest rule, and D = 1, have `nearest_radius` (exact); the soft rule, and D of all clusters, `soft_radius`; a
    linear head `linear_radius`.

    Args:
        head: a cluster or a linear head.
        features: (N, d) finite.
        lipschitz: an upper bound on the backbone's l2 Lipschitz constant, > 0: radii are divided by it.

    Raises:
        UsageError: another kind of head; a rule of D nearest clusters with 1 < D < all, whose scores jump where another
            cluster becomes one of the D, so that no such radius exists; or "fuzzy", for which none is known here.
        ValueError: what the radius itself refuses.
    """
    if isinstance(head, LinearHead):
        return linear_radius(features, head.linear.weight, head.linear.bias, lipschitz=lipschitz)
    if not isinstance(head, ClusterHead):
        raise UsageError(f"a {type(head).__name__} has no radius; certify a cluster or a linear head")
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
