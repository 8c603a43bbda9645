"""Square Attack (Andriushchenko et al. 2020)."""

from corral.attacks.square.attack import square

__all__ = ["square"]
