"""Fast adaptive boundary attack (Croce and Hein 2020)."""

from corral.attacks.fab.attack import fab, fab_minimal

__all__ = ["fab", "fab_minimal"]
