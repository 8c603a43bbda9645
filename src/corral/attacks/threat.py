"""A threat: how far, and in which norm, an attack may move an image."""

from dataclasses import dataclass

from corral.attacks.balls import ALL_NORMS, Norm
from corral.attacks.checks import take_eps


@dataclass(frozen=True)
class Threat:
    """A norm and a radius in pixel units.

    Attributes:
        norm: "Linf", "L2" or "L1".
        eps: radius for pixels in [0, 1], so 8/255, not 8.

    Raises:
        ValueError: another norm, or an impossible radius.
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        take_eps(self.eps, self.norm, ALL_NORMS)

    def __str__(self) -> str:
        return f"{self.norm} eps {self.eps:.4g}"
