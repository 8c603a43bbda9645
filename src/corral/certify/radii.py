"""The l2 radius that goes with a head, and the same radius in other norms."""

import math

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


def l2_to_l1(radii: Tensor) -> Tensor:
    """(N,) l1 radii of (N,) l2 radii: ||x||_2 <= ||x||_1, so the same number holds."""
    return radii


def l2_to_linf(radii: Tensor, values: int) -> Tensor:
    """(N,) l-infinity radii of (N,) l2 radii: ||x||_2 <= sqrt(n) ||x||_inf.

    Args:
        radii: l2 radii.
        values: n, the number of input values (channels × height × width).

    Raises:
        ValueError: values below 1.
    """
    if values < 1:
        raise ValueError(f"values must be the number of input values, at least 1, found {values}")
    return radii / math.sqrt(values)
