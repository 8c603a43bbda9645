"""Auto-PGD (Croce and Hein 2020)."""

from corral.attacks.apgd.attack import apgd

__all__ = ["apgd"]
