"""The calibration table of docs/diagnostics.md: `python -m tests.calibration.table [n eps norm seed]`."""

import sys
import time

import torch
from tests.calibration.models import EPS, MODELS, images

from corral.audit.diagnostics import Diagnosis, diagnose

MARKS = {"ok": "", "note": " note", "masked": " **masked**", "skipped": " skipped"}


def measure(n: int, eps: float, norm: str, seed: int) -> dict[str, tuple[Diagnosis, float]]:
    """Every model's diagnosis and its CPU seconds."""
    x, y = images(n)
    found = {}
    for name, (make, _) in MODELS.items():
        model, begun = make(), time.process_time()
        found[name] = diagnose(model, x, y, eps=eps, norm=norm, seed=seed, progress=False), time.process_time() - begun
    return found


def table(found: dict[str, tuple[Diagnosis, float]]) -> str:
    """Checks by models as Markdown."""
    first, _ = next(iter(found.values()))
    rows = [["check", *found], ["---"] * (len(found) + 1)]
    for place, check in enumerate(first.findings):
        findings = [diagnosis.findings[place] for diagnosis, _ in found.values()]
        values = ["–" if finding.value is None else f"{finding.value:.3f}" for finding in findings]
        marks = [MARKS[finding.verdict] for finding in findings]
        rows.append([f"`{check.name}`", *(value + mark for value, mark in zip(values, marks, strict=True))])
    rows.append(["**verdict**", *(f"**{diagnosis.verdict}**" for diagnosis, _ in found.values())])
    rows.append(["CPU seconds", *(f"{seconds:.1f}" for _, seconds in found.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = [*sys.argv[1:], *["200", str(EPS), "Linf", "0"][len(sys.argv) - 1 :]]
    print(table(measure(int(given[0]), float(given[1]), given[2], int(given[3]))))
