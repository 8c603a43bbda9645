"""The page's tables as rows of text, ready to be set."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from corral.records import AttackResult, Record, as_percent
from corral.report.runs.collect import Evidence
from corral.report.runs.compare import Entry, RunGroup, attacks_of
from corral.report.runs.estimates import Estimate
from corral.report.runs.verdict import within_noise_of_best
from corral.report.words import WORST_CASE, attack_title, counted, seconds_words


@dataclass(frozen=True)
class ReportRow:
    """One row: the header cell, the other cells, the run's colour (None for a mean over seeds), and its marks."""

    label: str
    cells: tuple[str, ...]
    run: int | None = None
    best: bool = False


@dataclass(frozen=True)
class ReportTable:
    """Column titles (the first is of the header cells), rows, and how many cells of a row are numbers: the first ones.

    `decisive` is the cell that ranks the rows, set bold where the row is among the best.
    """

    columns: tuple[str, ...]
    rows: tuple[ReportRow, ...]
    numbers: int = 0
    decisive: int | None = None


def runs_table(group: RunGroup, numbers: dict[str, int]) -> ReportTable:
    """Runs against attacks: accuracies, and mean ± sd where only seeds differ; `numbers` are the runs' on the page."""
    attacks = group.attacks
    lowest = () if WORST_CASE in attacks or len(attacks) < 2 else ("Lowest of these attacks",)
    measured = ("Clean", *map(attack_title, attacks), *lowest)
    columns = ("Run", *measured, "n", "Seed", "Training", "Head", "Method", "Recipe")
    best = within_noise_of_best(group) if len(group.entries) > 1 else set()
    rows: list[ReportRow] = []
    for entry in group.entries:
        for evidence in entry.members:
            cells = _run_cells(evidence.record, attacks, bool(lowest))
            is_best = len(entry.members) == 1 and entry.label in best
            rows.append(ReportRow(evidence.label, cells, numbers[evidence.label], is_best))
        if len(entry.members) > 1:
            rows.append(
                ReportRow(
                    f"{entry.label}, mean\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}sd",
                    _mean_cells(entry, attacks, bool(lowest)),
                    best=entry.label in best,
                )
            )
    return ReportTable(columns, tuple(rows), len(measured) + 3, len(measured) - 1)


def per_class_table(group: RunGroup) -> ReportTable:
    """Classes against runs: clean accuracy, and accuracy under the attack with the lowest accuracy of that run."""
    columns: list[str] = ["Class"]
    values: list[Sequence[float | None]] = []
    for evidence in group.members:
        columns.append(f"{evidence.label}, clean")
        values.append(evidence.record.clean_per_class)
        at_threat = [a for key, a in attacks_of(evidence.record).items() if key == a.name]
        if at_threat:
            hardest = min(at_threat, key=lambda attack: (attack.name != WORST_CASE, attack.accuracy))
            columns.append(f"{evidence.label}, {attack_title(hardest.name)}")
            values.append(hardest.per_class)
    classes = group.record.classes
    rows = [ReportRow(name, tuple(as_percent(column[i]) for column in values)) for i, name in enumerate(classes)]
    return ReportTable(tuple(columns), tuple(rows), len(values))


def evidence_table(evidence: Sequence[Evidence], numbers: dict[str, int]) -> ReportTable:
    """What made each number: data, model, seeds, time, device, versions, notes."""
    columns = ("Run", "Data", "Data fingerprint", "Model fingerprint", "Protocol", "Images", "Seeds", "Evaluation")
    rows = []
    for piece in evidence:
        r, e = piece.record, piece.record.environment
        cells = (
            r.data,
            r.data_fingerprint,
            r.model_fingerprint,
            r.protocol_name,
            f"{r.n:,} of {r.n_test:,}",
            f"{'' if r.train_seed is None else f'training {r.train_seed}, '}evaluation {r.eval_seed}",
            seconds_words(r.eval_seconds),
            r.created,
            f"{e.device}, {counted(e.threads, 'thread')}",
            f"corral {e.corral}, torch {e.torch}, Python {e.python}, {e.platform}",
            " ".join([*r.notes, *([f"inputs: {' '.join(r.inputs)}"] if r.inputs else [])]) or "–",
        )
        rows.append(ReportRow(piece.label, cells, numbers[piece.label]))
    return ReportTable((*columns, "Made at", "Device", "Versions", "Notes"), tuple(rows))


def _run_cells(record: Record, attacks: Sequence[str], lowest: bool) -> tuple[str, ...]:
    met = attacks_of(record)
    cells = [_attack_cell(met.get(key), record.n) for key in attacks]
    if lowest:
        cells.append(as_percent(_lowest(record)))
    seed = "–" if record.train_seed is None else str(record.train_seed)
    return (as_percent(record.clean), *cells, *_made_by(record, seed, record.train_seconds))


def _made_by(record: Record, seed: str, seconds: float | None) -> tuple[str, ...]:
    """The cells behind the accuracies."""
    head = (record.head or "–") if record.rule is None else f"{record.head}, {record.rule}"
    return (f"{record.n:,}", seed, seconds_words(seconds), head, record.method or "–", record.recipe or record.kind)


def _lowest(record: Record) -> float | None:
    """The lowest accuracy under one attack at the record's threat."""
    return min((attack.accuracy for key, attack in attacks_of(record).items() if key == attack.name), default=None)


def _attack_cell(attack: AttackResult | None, n: int) -> str:
    if attack is None:
        return "–"
    return as_percent(attack.accuracy) + ("" if attack.n == n else f" (n = {attack.n:,})")


def _mean_cells(entry: Entry, attacks: Sequence[str], lowest: bool) -> tuple[str, ...]:
    records = [evidence.record for evidence in entry.members]
    cells = [_mean_sd(entry.under(key)) for key in attacks]
    if lowest:
        minima = [_lowest(record) for record in records]
        known = [value for value in minima if value is not None]
        cells.append(_plus_minus(known) if len(known) == len(records) else "–")
    seconds = statistics.fmean(r.train_seconds or 0.0 for r in records)
    return (_mean_sd(entry.clean()), *cells, *_made_by(records[0], counted(len(records), "seed"), seconds))


def _plus_minus(values: Sequence[float]) -> str:
    return f"{as_percent(statistics.fmean(values))} ± {as_percent(statistics.stdev(values))}"


def _mean_sd(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{as_percent(estimate.mean)} ± {as_percent(estimate.spread)}"
