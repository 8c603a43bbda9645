"""What others report for a method, beside what was measured here."""

from collections.abc import Sequence

from corral.evaluation.records import Record
from corral.report.runs.collect import Evidence
from corral.report.runs.compare import attacks_of
from corral.report.words import attack_title, eps_words, percent


def claims(evidence: Sequence[Evidence]) -> list[str]:
    """One paragraph for each run whose recipe names a published figure on its data."""
    return [_claim(piece.label, piece.record) for piece in evidence if piece.record.reported is not None]


def _claim(label: str, record: Record) -> str:
    claim = record.reported
    assert claim is not None
    reported = (
        f"{label}: {claim.source} reports {percent(claim.clean)} clean and {percent(claim.robust)} robust under "
        f"{claim.attack}."
    )
    met = attacks_of(record)
    measured = f"Measured here: {percent(record.clean)} clean"
    if met:
        lowest = min(met.values(), key=lambda attack: attack.accuracy)
        measured += (
            f", {percent(lowest.accuracy)} under {attack_title(lowest.name)} at {lowest.norm} eps "
            f"{eps_words(lowest.eps)}"
        )
    part = f"{record.n:,} of {record.n_test:,} test images" if record.reduced else f"all {record.n:,} test images"
    return f"{reported} {measured}, on {part}."
