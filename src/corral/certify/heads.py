"""The radius that goes with a head: the one that its own class defines."""

from torch import Tensor

from corral.models.heads import Head, require_own_radius


def head_radius(head: Head, features: Tensor, *, lipschitz: float = 1.0) -> Tensor:
    """(N,) l2 radii within which a head's decision on each feature cannot change, in eval mode.

    `head.certified_radius`, after the proof that it is about what the head runs: the very class of the head defines it,
    since a subclass may decide by something else, and its own methods are all that runs (`models.plain`).

    Args:
        head: a head.
        features: (N, d) finite.
        lipschitz: an upper bound on the backbone's l2 Lipschitz constant, > 0: radii are divided by it.

    Raises:
        UsageError: a head whose class defines no radius, also where a parent does, or with a forward hook or a method
            replaced; what the head itself refuses, such as a rule without a radius.
        ValueError: what the radius itself refuses.
    """
    require_own_radius(head)
    return head.certified_radius(features, lipschitz=lipschitz)
