"""An attack with everything but the model and the images fixed: a row of a protocol."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from corral.attacks.outcome import Outcome
from corral.attacks.threat import Threat

Setting = int | float | str | bool


class Runner(Protocol):
    """Attacks a batch at the threat that it was bound to."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Outcome:
        """Arguments as every attack of `corral.attacks`; returns what it found for each image."""
        ...


@dataclass(frozen=True)
class Attack:
    """One named attack, bound to a threat.

    Attributes:
        name: unique in its protocol; the record's and the page's name for it.
        description: one sentence that says what is run, for a reader of the record.
        settings: every parameter that decides the result, by name; two attacks of equal name, threat and settings are
            equal.
        threat: that `run` keeps to, and that step sizes were decided at.
        run: the attack itself.
    """

    name: str
    description: str
    settings: tuple[tuple[str, Setting], ...]
    threat: Threat
    run: Runner
