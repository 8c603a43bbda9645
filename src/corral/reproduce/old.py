"""Results of earlier versions, a folder a table with its records, as lines of the CSV files."""

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from corral.analysis import Analysis
from corral.errors import CorralError
from corral.evaluation.records import Record, read_record
from corral.reproduce.definition import load_table, meant_columns, shipped_tables
from corral.reproduce.entries import SeedResult, Trained, Worst, row_entries
from corral.reproduce.lines import RowKey, changed_words
from corral.reproduce.result import Result, ResultPart, ResultRow, read_result
from corral.reproduce.store import Store, changing, read_store


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

    Raises:
        CorralError: a damaged or missing file.
    """
    result = read_result(folder / "table.json")
    # Rows that do not say what their columns meant are of the columns as they are.
    columns = meant_columns(load_table(result.table)) if result.table in shipped_tables() else {}
    found = Store()
    for part in result.parts:
        for row in part.rows:
            found.add(_row(folder, result, part, row, row.columns or columns))
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
        CorralError: a record of other weights or images than the row's.
    """
    by_factor: dict[str, list[Record]] = {}
    for record in records:
        if record.n != n or (row.fingerprints and record.model_fingerprint != row.fingerprints[place]):
            raise CorralError(f"row {row.name!r}: its record {record.run} {record.protocol} is of another evaluation")
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
            found.setdefault(float(words.removesuffix(" eps")), {})[attack] = measured.kept[place]
    return found


def _with_class_means(analysis: Analysis) -> Analysis:
    """An analysis of cosines with the numbers over the classes, which versions before 0.2 left to the curves."""
    found = dict(analysis.numbers)
    for name in ("clean", "pgd"):
        # 0 stands for a class that no image is decided for.
        means = [value for value in analysis.series.get(f"{name} by class", ()) if value]
        if analysis.name == "cosine" and means:
            found.setdefault(f"{name} of classes", statistics.fmean(means))
            found.setdefault(f"{name} sd of classes", statistics.pstdev(means))
    return analysis.model_copy(update={"numbers": found})


def _key(result: Result, part: ResultPart, row: ResultRow) -> RowKey:
    return RowKey(
        table=result.table,
        scale=result.scale,
        changed=changed_words(result.changed),
        data=part.data,
        beside=part.beside,
        row=row.name,
    )
