"""A table's result on disk: which of its rows the table still means, and its documents, made from the CSV files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corral.documents import document_text
from corral.errors import CorralError
from corral.files import write_atomically
from corral.lock import locked
from corral.papers.assemble import result_of
from corral.papers.definition import Table, load_table
from corral.papers.old import taken_over
from corral.papers.page import table_page
from corral.papers.plan import RunPlan
from corral.papers.result import Result, ResultPart, ResultRow, bare
from corral.papers.store import Store, read_store
from corral.report.table.markdown import as_markdown
from corral.report.table.page import render
from corral.report.words import slug

TABLES = "tables"


def folder_of(table: str, scale: str, changed: Mapping[str, Any]) -> str:
    """The name of a table's folder below the results' `tables/`: of its own for every change of the caller's."""
    return "-".join([f"{table}-{scale}", *(slug(f"{key} {changed[key]}") for key in sorted(changed))])


def show(
    table: str, *, scale: str = "smoke", results: str | Path = "results", changed: Mapping[str, Any] | None = None
) -> Path:
    """Write a table's documents again from the CSV files; nothing is trained, and no run or data is needed.

    Args:
        table: one of `shipped_tables`.
        scale: of the result.
        results: where `runs.csv` and the other files lie.
        changed: as for `reproduce`.

    Returns:
        The page.

    Raises:
        UsageError: an unknown table.
        CorralError: no such result, or a damaged one.
    """
    definition = load_table(table)
    taken_over(Path(results))
    return shown_again(definition, scale, changed or {}, Path(results))


def shown_again(table: Table, scale: str, changed: Mapping[str, Any], results: Path) -> Path:
    """Write a table's documents as the CSV files have it, while no other process changes either; returns the page."""
    with locked(results / ".lock"):
        result = table_result(table, scale, changed, read_store(results))
        if not result.parts:
            command = f"corral reproduce {table.name} --scale {scale}"
            raise CorralError(f"{results}: no row of {table.name} at scale {scale}; make it with `{command}`")
        folder = results / TABLES / folder_of(table.name, scale, changed)
        page = folder / "page.html"
        files = {**documents(table, result), page.name: render(table_page(table, result)).encode()}
        for name, content in files.items():
            write_atomically(folder / name, content)
        return page


def table_result(table: Table, scale: str, changed: Mapping[str, Any], store: Store) -> Result:
    """Everything that the store has of a table, in its order, rows of an earlier setting marked."""
    result = result_of(table, scale, changed, store)
    meant = planned_runs(table, scale, changed)

    def marked(part: ResultPart, row: ResultRow) -> ResultRow:
        rule = None if row.rule is None else str(row.rule)
        earlier = (rule, *row.runs) != meant.get((part.data, part.beside, row.name))
        return row.model_copy(update={"earlier": earlier})

    parts = [part.model_copy(update={"rows": tuple(marked(part, row) for row in part.rows)}) for part in result.parts]
    return result.model_copy(update={"parts": tuple(parts)})


def planned_runs(
    table: Table, scale: str, changed: Mapping[str, Any]
) -> dict[tuple[str, str, str], tuple[str | None, ...]]:
    """The rule and the runs that the table means now, by data set, the paper's data set and row."""
    plan = RunPlan(Path(), changed)
    return {
        (part.data, part.beside, row.name): (
            None if row.rule is None else str(row.rule),
            *(plan.planned(part, row, seed)[1].path.name for seed in part.seeds),
        )
        for name, parts in table.scales.items()
        if name == scale
        for part in parts
        for row in table.rows
        if row.has(part.data)
    }


def documents(table: Table, result: Result) -> dict[str, bytes]:
    """What is committed of a table, by file name: its numbers, and its text for readers of the repository."""
    shown = result.model_copy(update={"parts": tuple(bare(part) for part in result.parts)})
    return {"table.json": document_text(shown).encode(), "table.md": as_markdown(table_page(table, result)).encode()}
