"""What happened to each test image: the boolean arrays beside a record, which let runs be compared image by image."""

import math
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corral.records import EARLIER_NAMES, AttackResult, Record
from corral.report.words import AGGREGATES

CLEAN = "clean"
"""The key of the outcomes on images as they are; the other keys are names of attacks."""

Outcomes = Mapping[str, NDArray[np.bool_]]


def at_threat(attack: AttackResult, record: Record) -> bool:
    """Whether an attack was run at the norm and eps of its record."""
    return attack.norm == record.norm and math.isclose(attack.eps, record.eps, rel_tol=1e-6, abs_tol=1e-9)


def single_attacks(record: Record) -> list[AttackResult]:
    """A record's attacks without its rows that sum up several of them per image."""
    return [attack for attack in record.attacks if attack.name not in AGGREGATES]


def array_names(record: Record, stored: Container[str]) -> dict[str, str]:
    """The stored arrays that hold outcomes of a record: for "clean" and each attack at its threat, `correct_<key>`."""
    earlier = {today: name for name, today in EARLIER_NAMES.items()}
    keys = [CLEAN, *(a.name for a in single_attacks(record) if at_threat(a, record))]
    names = {key: (f"correct_{key}", f"correct_{earlier.get(key, key)}") for key in keys}
    return {key: name for key, either in names.items() if (name := next((n for n in either if n in stored), None))}


def outcomes_problem(outcomes: Mapping[str, NDArray[Any]], record: Record) -> str | None:
    """What in the outcomes contradicts their record, or None.

    Args:
        outcomes: arrays as they were read, by key, the worst case among them where it is known.
        record: the record that they lie beside.
    """
    for key, (accuracy, n) in _measured(record).items():
        if key not in outcomes:
            continue
        values = outcomes[key]
        if values.dtype != np.bool_ or values.shape != (n,):
            return f"correct_{key} is {values.dtype} of shape {values.shape}, expected bool of shape ({n},)"
        # Half an image: an accuracy in a record may be rounded, a count may not be off.
        if abs(int(values.sum()) - accuracy * n) > 0.5:
            name = "all correct_* together keep" if key in AGGREGATES else f"correct_{key} keeps"
            return f"{name} {int(values.sum())} of {n} images, expected {accuracy * n:.0f} as the record has it"
    return None


def with_worst_case(outcomes: Outcomes, record: Record) -> Outcomes:
    """Outcomes with the worst case (and a protocol's own row for it) added: right clean and under every attack.

    Nothing is added where the record has no such row or attacks at several threats, or where the outcomes of clean
    images or of an attack are missing or are of fewer images.
    """
    rows = [attack.name for attack in record.attacks if attack.name in AGGREGATES]
    needed = [CLEAN, *(attack.name for attack in single_attacks(record))]
    if not rows or not all(at_threat(attack, record) for attack in record.attacks):
        return outcomes
    if not all(key in outcomes for key in needed):
        return outcomes
    parts = [outcomes[key] for key in needed]
    if len({len(part) for part in parts}) > 1:
        return outcomes
    kept: NDArray[np.bool_] = np.logical_and.reduce(parts)
    return {**outcomes, **dict.fromkeys(rows, kept)}


def _measured(record: Record) -> dict[str, tuple[float, int]]:
    """Accuracy and number of images of everything that outcomes can belong to."""
    attacks = {a.name: (a.accuracy, a.n) for a in record.attacks if at_threat(a, record)}
    return {CLEAN: (record.clean, record.n), **attacks}
