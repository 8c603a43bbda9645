"""Results of earlier versions, a folder a table with its records, as lines of the CSV files."""

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from corral.analysis import Analysis
from corral.errors import CorralError
from corral.papers.definition import load_table, meant_columns, shipped_tables
from corral.papers.entries import SeedResult, Trained, Worst, row_entries
from corral.papers.lines import RowKey, changed_words
from corral.papers.result import Result, ResultPart, ResultRow, read_result
from corral.papers.store import Store, changing, read_store
from corral.records import EARLIER_NAMES, Record, read_record


class _MixedRowError(CorralError):
    """The records of a row are not those that its numbers are of."""


def old_folders(results: Path) -> list[Path]:
    """The folders of a results folder that earlier versions wrote, each with its table.json."""
    return sorted(path.parent for path in results.glob("*/table.json") if path.parent.parent.name != "tables")


def taken_over(results: Path) -> None:
    """Take what earlier versions wrote into the CSV files, where those do not have the row; says so in a line.

    Raises:
        CorralError: a damaged or missing file.
    """
    known = read_store(results).rows if old_folders(results) else {}
    for folder in old_folders(results):
        result = read_result(folder / "table.json")
        keys = {_key(result, part, row) for part in result.parts for row in part.rows}
        if keys <= known.keys():
            continue
        with changing(results) as store:
            found = read_old(folder)
            found.rows = {key: lines for key, lines in found.rows.items() if key not in store.rows}
            store.add(found)
        message = (
            f"{folder}: of an earlier version, its rows were taken into {results / 'runs.csv'} and the files beside it"
        )
        sys.stderr.write(f"corral: {message}; the folder may be deleted\n")


def read_old(folder: Path) -> Store:
    """The rows of one folder of an earlier version.

    A row that was being made again when the folder was written, so that its records are newer than it, is left out with
    a line on stderr.

    Raises:
        CorralError: a damaged or missing file.
    """
    result = read_result(folder / "table.json")
    # Rows that do not say what their columns meant are of the columns as they are.
    columns = meant_columns(load_table(result.table)) if result.table in shipped_tables() else {}
    found = Store()
    for part in result.parts:
        for row in part.rows:
            try:
                found.add(_row(folder, result, part, row, row.columns or columns))
            except _MixedRowError as error:
                sys.stderr.write(f"corral: {folder}: {part.data}, {error}; the row is left out\n")
    return found


def _row(folder: Path, result: Result, part: ResultPart, row: ResultRow, columns: Mapping[str, str]) -> Store:
    key = _key(result, part, row)
    each = len(row.records) // len(row.seeds)
    seeds = [
        _seed(row, part.n, place, [read_record(folder / name) for name in row.records[place * each :][:each]], columns)
        for place in range(len(row.seeds))
    ]
    return row_entries(key, seeds, recipe=row.recipe, rule=row.rule, eps=row.eps, columns="")


def _seed(row: ResultRow, n: int, place: int, records: Sequence[Record], columns: Mapping[str, str]) -> SeedResult:
    """One seed of a row.

    Raises:
        _MixedRowError: a record of another run, of other weights or of other images than the row's.
    """
    by_factor: dict[str, list[Record]] = {}
    for record in records:
        same_run = record.run == row.runs[place] or (row.rule is not None and record.run.startswith(row.runs[place]))
        same_weights = not row.fingerprints or record.model_fingerprint == row.fingerprints[place]
        if not (same_run and same_weights and record.n == n):
            raise _MixedRowError(f"row {row.name!r}: its record {record.run} {record.protocol} is of another run")
        by_factor.setdefault(f"{record.eps / row.eps:g}", []).append(record)
    worst = {}
    for factor in by_factor:
        measured = row.sound[factor]
        worst[float(factor)] = Worst(round(measured.values[place] * n), measured.kept[place] if measured.kept else "")
    ending = row.endings[place] if row.endings else None
    seconds = row.work_seconds[place] if row.work_seconds else None
    return SeedResult(
        run=row.runs[place],
        seed=row.seeds[place],
        records={float(factor): found for factor, found in by_factor.items()},
        outcomes=_outcomes(row, place, columns),
        worst=worst,
        analyses=[_with_class_means(analyses[place]) for analyses in row.analyses.values()],
        trained=Trained(row.train_seconds[place], seconds, row.work_clock, ending),
    )


def _outcomes(row: ResultRow, place: int, columns: Mapping[str, str]) -> Mapping[float, Mapping[str, str]]:
    """By radius and attack, which images the columns say were classified right."""
    found: dict[float, dict[str, str]] = {}
    for name, measured in row.protocol.items():
        attack, _, words = columns.get(name, "").partition(" at ")
        if measured.kept and words:
            at = found.setdefault(float(words.removesuffix(" eps")), {})
            at[EARLIER_NAMES.get(attack, attack)] = measured.kept[place]
    return found


def _with_class_means(analysis: Analysis) -> Analysis:
    """An analysis of cosines with the numbers over the classes, which versions before 0.1.0 left to the curves."""
    found = dict(analysis.numbers)
    for name in ("clean", "pgd"):
        # 0 stands for a class that no image is decided for.
        means = [value for value in analysis.series.get(f"{name} by class", ()) if value]
        if analysis.name == "cosine" and means:
            found.setdefault(f"{name} of classes", statistics.fmean(means))
            found.setdefault(f"{name} sd of classes", statistics.pstdev(means))
    return analysis.model_copy(update={"numbers": found})


def _key(result: Result, part: ResultPart, row: ResultRow) -> RowKey:
    part_of = {"data": part.data, "beside": part.beside, "row": row.name}
    return RowKey(table=result.table, scale=result.scale, changed=changed_words(result.changed), **part_of)
