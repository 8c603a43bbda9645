"""An attack with everything but the model and the images fixed: a row of a protocol."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from corral.attacks.outcome import Outcome
from corral.attacks.threat import Threat

Setting = int | float | str | bool


class Runner(Protocol):
    """Attacks a batch at the threat that it was bound to."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Outcome:
        """Arguments as every attack of `corral.attacks`."""
        ...


@dataclass(frozen=True)
class Attack:
    """One named attack, bound to a threat.

    Attributes:
        name: unique in its protocol; the record's and the page's name for it.
        description: one sentence that says what is run, for the record.
        settings: every parameter that decides the result; attacks of equal name, threat and settings are equal.
        threat: that `run` keeps to, and that step sizes were decided at.
        run: the attack itself.
        objective: what it climbs, where no setting says so.
        success_rule: "any_iterate" if any misclassified iterate counts, "max_loss_restart" if only the last one of the
            restart of highest loss does; where no setting says so.
    """

    name: str
    description: str
    settings: tuple[tuple[str, Setting], ...]
    threat: Threat
    run: Runner
    objective: str = "its own"
    success_rule: Literal["any_iterate", "max_loss_restart"] = "any_iterate"


def bound(function: Callable[..., Outcome], threat: Threat, **arguments: Any) -> Runner:
    """An attack function at a threat, with its other arguments: what remains to give is the batch and the seed."""

    def run(model: nn.Module, x: Tensor, y: Tensor, *, seed: int) -> Outcome:
        return function(model, x, y, eps=threat.eps, norm=threat.norm, seed=seed, **arguments)

    return run
