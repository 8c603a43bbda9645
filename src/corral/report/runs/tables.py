"""The page's tables as rows of text, ready to be set."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from corral.records import AttackResult, Record, as_percent
from corral.report.runs.collect import Evidence
from corral.report.runs.compare import Entry, RunGroup, attacks_of
from corral.report.runs.estimates import Estimate
from corral.report.runs.overstated import overstatements
from corral.report.runs.verdict import within_noise_of_best
from corral.report.words import WORST_CASE, attack_title, counted, seconds_words


class Cell(NamedTuple):
    """What stands in a cell, and the exact value of what was rounded for it: sorting and downloads take that."""

    text: str
    value: float | None = None
    run: str | None = None


@dataclass(frozen=True)
class ReportRow:
    """One row: the header cell, the other cells, the run's colour (None for a mean over seeds), and its marks.

    `runs` are the numbers of the runs that it is of and `kind` that of its class, for the page's filters.
    """

    label: str
    cells: tuple[Cell, ...]
    run: int | None = None
    best: bool = False
    runs: str | None = None
    kind: int | None = None


@dataclass(frozen=True)
class ReportTable:
    """Column titles (the first is of the header cells), rows, and how many cells of a row are numbers: the first ones.

    `decisive` is the cell that ranks the rows, set bold where the row is among the best.
    """

    columns: tuple[Cell, ...]
    rows: tuple[ReportRow, ...]
    numbers: int = 0
    decisive: int | None = None


def run_numbers(members: Sequence[Evidence], numbers: dict[str, int]) -> str:
    """The numbers on the page of some runs, as the page's filters have them."""
    return " ".join(str(numbers[evidence.label]) for evidence in members)


def runs_table(group: RunGroup, numbers: dict[str, int]) -> ReportTable:
    """Runs against attacks: accuracies, and mean ± sd where only seeds differ; `numbers` are the runs' on the page.

    The column that ranks the rows is the first: the worst case, else the lowest accuracy of each run.
    """
    attacks = group.attacks
    lowest = WORST_CASE not in attacks and len(attacks) > 1
    first = [WORST_CASE] if WORST_CASE in attacks else attacks if len(attacks) == 1 else []
    others = [name for name in attacks if name not in first]
    titles = [
        *(["Lowest of these attacks"] if lowest else map(attack_title, first)),
        "Clean",
        *map(attack_title, others),
    ]
    columns = ("Run", *titles, "n", "Seed", "Training", "Head", "Method", "Recipe")
    best = within_noise_of_best(group) if len(group.entries) > 1 else set()
    rows: list[ReportRow] = []
    for entry in group.entries:
        for evidence in entry.members:
            number = numbers[evidence.label]
            is_best = len(entry.members) == 1 and entry.label in best
            cells = _run_cells(evidence.record, first, others, lowest)
            rows.append(ReportRow(evidence.label, cells, number, is_best, str(number)))
        if len(entry.members) > 1:
            rows.append(
                ReportRow(
                    f"{entry.label}, mean\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}sd",
                    _mean_cells(entry, first, others, lowest),
                    best=entry.label in best,
                    runs=run_numbers(entry.members, numbers),
                )
            )
    return ReportTable(tuple(map(Cell, columns)), tuple(rows), len(titles) + 3, 0 if attacks else None)


def per_class_table(group: RunGroup, numbers: dict[str, int]) -> ReportTable:
    """Classes against runs: clean accuracy, and accuracy under the attack with the lowest accuracy of that run."""
    columns: list[Cell] = []
    values: list[Sequence[float | None]] = []
    for evidence in group.members:
        run = str(numbers[evidence.label])
        at_threat = [a for key, a in attacks_of(evidence.record).items() if key == a.name]
        if at_threat:
            hardest = min(at_threat, key=lambda attack: (attack.name != WORST_CASE, attack.accuracy))
            columns.append(Cell(f"{evidence.label}, {attack_title(hardest.name)}", run=run))
            values.append(hardest.per_class)
        columns.append(Cell(f"{evidence.label}, clean", run=run))
        values.append(evidence.record.clean_per_class)
    rows = [
        ReportRow(
            name,
            tuple(_share(one[i], run=column.run) for one, column in zip(values, columns, strict=True)),
            kind=i,
        )
        for i, name in enumerate(group.record.classes)
    ]
    return ReportTable((Cell("Class"), *columns), tuple(rows), len(values))


def overstatement_table(group: RunGroup, numbers: dict[str, int]) -> ReportTable | None:
    """What the published protocol reports above the sound attacks, a row a run; None where no run has both."""
    columns = (
        "Run",
        "Overstated by, points",
        "PGD as published",
        "The strongest other attack",
        "Of it hidden by exponentiated scores, points",
    )
    rows = []
    for found in overstatements(group):
        hidden = None if found.control is None else found.claimed.mean - found.control.mean
        rows.append(
            ReportRow(
                found.entry.label,
                (
                    _points(found.gap),
                    _share(found.claimed.mean),
                    Cell(f"{as_percent(found.kept.mean)} ({attack_title(found.attack)})"),
                    Cell("–") if hidden is None else _points(hidden),
                ),
                runs=run_numbers(found.entry.members, numbers),
            )
        )
    return ReportTable(tuple(map(Cell, columns)), tuple(rows), len(columns) - 1) if rows else None


def _points(gap: float) -> Cell:
    return Cell(f"{100 * gap:.1f}", 100 * gap)


def _share(value: float | None, *, run: str | None = None) -> Cell:
    return Cell(as_percent(value), None if value is None else 100 * value, run)


def _run_cells(record: Record, first: Sequence[str], others: Sequence[str], lowest: bool) -> tuple[Cell, ...]:
    met = attacks_of(record)
    leading = [_share(_lowest(record))] if lowest else [_attack_cell(met.get(key), record.n) for key in first]
    cells = [_attack_cell(met.get(key), record.n) for key in others]
    seed = "–" if record.train_seed is None else str(record.train_seed)
    return (*leading, _share(record.clean), *cells, *_made_by(record, seed, record.train_seconds))


def _made_by(record: Record, seed: str, seconds: float | None) -> tuple[Cell, ...]:
    """The cells behind the accuracies."""
    head = (record.head or "–") if record.rule is None else f"{record.head}, {record.rule}"
    made = (head, record.method or "–", record.recipe or record.kind)
    return (Cell(f"{record.n:,}"), Cell(seed), Cell(seconds_words(seconds), seconds), *map(Cell, made))


def _lowest(record: Record) -> float | None:
    """The lowest accuracy under one attack at the record's threat."""
    return min((attack.accuracy for key, attack in attacks_of(record).items() if key == attack.name), default=None)


def _attack_cell(attack: AttackResult | None, n: int) -> Cell:
    if attack is None:
        return Cell("–")
    return _share(attack.accuracy) if attack.n == n else Cell(f"{as_percent(attack.accuracy)} (n = {attack.n:,})")


def _mean_cells(entry: Entry, first: Sequence[str], others: Sequence[str], lowest: bool) -> tuple[Cell, ...]:
    records = [evidence.record for evidence in entry.members]
    leading = [_mean_sd(entry.under(key)) for key in first]
    if lowest:
        minima = [_lowest(record) for record in records]
        known = [value for value in minima if value is not None]
        leading = [_plus_minus(known) if len(known) == len(records) else Cell("–")]
    cells = [_mean_sd(entry.under(key)) for key in others]
    seconds = statistics.fmean(r.train_seconds or 0.0 for r in records)
    return (*leading, _mean_sd(entry.clean()), *cells, *_made_by(records[0], counted(len(records), "seed"), seconds))


def _plus_minus(values: Sequence[float]) -> Cell:
    mean = statistics.fmean(values)
    return Cell(f"{as_percent(mean)} ± {as_percent(statistics.stdev(values))}", 100 * mean)


def _mean_sd(estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell("–")
    return Cell(f"{as_percent(estimate.mean)} ± {as_percent(estimate.spread)}", 100 * estimate.mean)
