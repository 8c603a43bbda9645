"""A table's result on disk: where it lies, which of its rows the table still means, and its pages written again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corral.documents import write_document
from corral.files import write_atomically
from corral.report.words import slug
from corral.reproduce.definition import Table, load_table
from corral.reproduce.markdown import as_markdown
from corral.reproduce.page import write_page
from corral.reproduce.plan import Plan
from corral.reproduce.result import Result, ResultPart, ResultRow, read_result


def folder_of(table: str, scale: str, changed: Mapping[str, Any]) -> str:
    """The name of a table's folder below the results: of its own for every change of the caller's."""
    return "-".join([f"{table}-{scale}", *(slug(f"{key} {changed[key]}") for key in sorted(changed))])


def show(
    table: str, *, scale: str = "smoke", results: str | Path = "results", changed: Mapping[str, Any] | None = None
) -> Path:
    """Write a table's Markdown and page again from its `table.json`; nothing is trained, and no run or data is needed.

    Args:
        table: one of `shipped_tables`.
        scale: of the result.
        results: where `TABLE-SCALE/table.json` lies.
        changed: as for `reproduce`.

    Returns:
        The page.

    Raises:
        UsageError: an unknown table.
        CorralError: no such result, or a damaged one.
    """
    definition, folder = load_table(table), Path(results) / folder_of(table, scale, changed or {})
    result = marked_result(definition, read_result(folder / "table.json"), changed or {})
    write_document(result, folder / "table.json")
    return written(definition, result, folder)


def marked_result(table: Table, result: Result, changed: Mapping[str, Any]) -> Result:
    """A result whose rows say whether they were made by the runs that the table means now."""
    plan = Plan(Path(), changed)
    meant = {
        (part.data, part.beside, row.name): (
            row.rule,
            *(plan.planned(part, row, seed)[1].path.name for seed in part.seeds),
        )
        for scale, parts in table.scales.items()
        if scale == result.scale
        for part in parts
        for row in table.rows
        if row.has(part.data)
    }
    columns = meant_columns(table)

    def marked(part: ResultPart, row: ResultRow) -> ResultRow:
        earlier = (row.rule, *row.runs) != meant.get((part.data, part.beside, row.name))
        # A number under a heading that means something else by now would be read as that.
        protocol = {
            name: measured
            for name, measured in row.protocol.items()
            if not row.columns or row.columns.get(name) == columns.get(name)
        }
        return row.model_copy(update={"earlier": earlier, "protocol": protocol})

    parts = [part.model_copy(update={"rows": tuple(marked(part, row) for row in part.rows)}) for part in result.parts]
    return result.model_copy(update={"parts": tuple(parts)})


def meant_columns(table: Table) -> dict[str, str]:
    """What every column means: its attack or analysis, and the radius."""
    return {column.name: f"{column.attack} at {column.eps:g} eps" for column in table.columns}


def written(table: Table, result: Result, folder: Path) -> Path:
    """Write table.md and the page; returns the page."""
    write_atomically(folder / "table.md", as_markdown(table, result).encode())
    return write_page(table, result, folder / "page.html")
