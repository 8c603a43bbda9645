"""An attack with everything but the model, the images and the threat fixed: a row of a protocol."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from corral.attacks.balls import Norm
from corral.attacks.outcome import Outcome

Setting = int | float | str | bool


class Runner(Protocol):
    """Attacks a batch."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm, seed: int) -> Outcome:
        """Arguments as every attack of `corral.attacks`; returns what it found for each image."""
        ...


@dataclass(frozen=True)
class Attack:
    """One named attack of a protocol.

    Attributes:
        name: unique in its protocol; the record's and the page's name for it.
        description: one sentence that says what is run, for a reader of the record.
        settings: every parameter that decides the result, by name; two attacks of equal name and settings are equal.
        run: the attack itself.
    """

    name: str
    description: str
    settings: tuple[tuple[str, Setting], ...]
    run: Runner
