"""Several records of one run as one: the attacks of all protocols that met the same images at the same threat."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corral.attacks.protocols import PROTOCOLS
from corral.records import AttackResult, Record, pointwise_minimum
from corral.report.runs.outcomes import CLEAN, Outcomes, single_attacks
from corral.report.words import AGGREGATES, WORST_CASE


def together(first: Record, second: Record) -> bool:
    """Whether two records of a run measured the same images at the same threat, so that outcomes go image by image."""
    same = ("model_fingerprint", "data_fingerprint", "norm", "eps", "n", "n_test")
    return all(getattr(first, name) == getattr(second, name) for name in same)


def protocol_order(record: Record) -> int:
    """Where a record comes among the records of its run."""
    names = PROTOCOLS.names()
    return names.index(record.protocol) if record.protocol in names else len(names)


def merged(
    records: Sequence[Record], outcomes: Sequence[Outcomes], labels: NDArray[Any] | None
) -> tuple[Record, Outcomes]:
    """One record with every attack of several that are `together`, its worst case taken per image over all of them.

    Raises:
        ValueError: outcomes or labels that several records need are missing.
    """
    if len(records) == 1:
        return records[0], outcomes[0]
    if labels is None or len(labels) != records[0].n:
        raise ValueError("the labels of the images are missing")
    attacks: dict[str, AttackResult] = {}
    known: dict[str, NDArray[np.bool_]] = {}
    for record, held in zip(records, outcomes, strict=True):
        for attack in record.attacks:
            if attack.name != WORST_CASE:
                attacks.setdefault(attack.name, attack)
        missing = [name for name in (CLEAN, *(a.name for a in single_attacks(record))) if name not in held]
        if missing:
            raise ValueError(f"outcomes of {missing[0]} are missing")
        for name, kept in held.items():
            known.setdefault(name, kept)
    single = [attack for attack in attacks.values() if attack.name not in AGGREGATES]
    correct = np.logical_and.reduce([known[CLEAN], *(known[attack.name] for attack in single)])
    classes = range(len(records[0].classes))
    per_class = [float(correct[labels == c].mean()) if (labels == c).any() else None for c in classes]
    worst = pointwise_minimum(WORST_CASE, single, int(correct.sum()) / len(correct), per_class)
    record = records[0].model_copy(
        update={
            "attacks": [*attacks.values(), worst],
            "protocol": "+".join(record.protocol for record in records),
            "eval_seconds": sum(record.eval_seconds for record in records),
            "created": max(record.created for record in records),
            "edited": tuple(dict.fromkeys(name for record in records for name in record.edited)),
            "notes": list(dict.fromkeys(note for record in records for note in record.notes)),
        }
    )
    return record, {**known, WORST_CASE: correct}
