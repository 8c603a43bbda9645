"""A row's numbers out of its runs: accuracies of one radius over the seeds, and the images behind them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corral.evaluation.records import Record
from corral.report.outcomes import CLEAN, Outcomes, single_attacks
from corral.report.words import AGGREGATES, WORST_CASE, attack_title
from corral.reproduce.result import Measured, packed

# A run's merged record at one radius, and whether each test image was classified right, by attack.
Evaluated = tuple[Record, Outcomes]


def accuracy(found: Sequence[Evaluated], attack: str) -> Measured | None:
    """Accuracy without attack or under one, by seed; None where a seed has none of that name."""
    values = [_accuracy(record, attack) for record, _ in found]
    known = tuple(value for value in values if value is not None)
    if len(known) < len(values):
        return None
    title = "no attack" if attack == CLEAN else attack_title(attack)
    return Measured(values=known, attack=title, kept=_kept([outcomes.get(attack) for _, outcomes in found]))


def sound(found: Sequence[Evaluated]) -> Measured:
    """The worst case per image over everything that was run at this radius."""
    names = [attack.name for attack in found[0][0].attacks]
    rows = [name for name in names if name == WORST_CASE] or names
    singles = [attack_title(name) for name in names if name not in AGGREGATES]
    values = tuple(min(a.accuracy for a in record.attacks if a.name in rows) for record, _ in found)
    kept = _kept([_worst(record, outcomes) for record, outcomes in found])
    return Measured(values=values, attack=f"worst per image of {'; '.join(singles)}", kept=kept)


def _accuracy(record: Record, attack: str) -> float | None:
    if attack == CLEAN:
        return record.clean
    return next((result.accuracy for result in record.attacks if result.name == attack), None)


def _worst(record: Record, outcomes: Outcomes) -> NDArray[np.bool_] | None:
    parts = [outcomes.get(key) for key in (CLEAN, *(attack.name for attack in single_attacks(record)))]
    known = [part for part in parts if part is not None]
    return np.logical_and.reduce(known) if len(known) == len(parts) else None


def _kept(outcomes: Sequence[NDArray[np.bool_] | None]) -> tuple[str, ...]:
    """The images of every seed; none where those of one are not known."""
    known = [one for one in outcomes if one is not None]
    return tuple(packed(one) for one in known) if len(known) == len(outcomes) else ()
