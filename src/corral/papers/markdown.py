"""A table as Markdown, for readers of the repository: the same cells as the page."""

from collections.abc import Sequence

from corral.papers.definition import Table
from corral.papers.page import (
    cells,
    command,
    compared,
    groups,
    made,
    reading,
    setting_words,
    sound_words,
    threat,
)
from corral.papers.result import Result, ResultPart
from corral.papers.times import training_cells, training_headings, training_words
from corral.report.words import sentence


def as_markdown(table: Table, result: Result) -> str:
    """The table, its analyses and how they were made; equal results give equal text."""
    lines = [f"# {table.title}", "", f"{table.source}. `{command(result)}`", ""]
    lines += [table.note, ""] if table.note else []
    for part in result.parts:
        lines += _part(table, result, part)
    lines += [f"{made(result)} Cost: {table.estimate}", ""]
    return "\n".join(lines)


def rows_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table's lines; the first column is text, the others numbers."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    rule = ["---", *("---:" for _ in header[1:])]
    return [f"| {' | '.join(row)} |" for row in (escaped[0], rule, *escaped[1:])]


def _part(table: Table, result: Result, part: ResultPart) -> list[str]:
    found = groups(table, part)
    headings = [
        (f"**{title}** ({group.title[0].lower()}{group.title[1:]})" if kind == "sound" else title, kind)
        for group in found
        for title, kind in group.headings()
    ]
    header = ["Method", *(title for title, _ in (*headings, *training_headings(part)))]
    rows = []
    for row in part.rows:
        values = [cell for group in found for cell in cells(group, row)]
        shown = [
            f"**{value}**" if kind == "sound" else value for value, (_, kind) in zip(values, headings, strict=True)
        ]
        rows.append([row.shown, *shown, *training_cells(part, row)])
    why = setting_words(table, result, part)
    lines = [f"## {part.data}, {threat(part)}", "", f"{reading(part)} {sentence(why)}", ""]
    lines += [
        *rows_of(header, rows),
        "",
        "Percent of the test images, unless a heading names a unit; ± is the sample standard deviation over seeds.",
        "",
    ]
    lines += [f"- {words}" for words in sound_words(table, part)]
    lines += [f"- {words}" for words in training_words(part)]
    lines += [f"- {row.name}: {row.remark}" for row in part.rows if row.remark]
    lines += [""]
    for section in compared(table, part):
        lines += [f"### {section.title}", "", section.text, "", *rows_of(section.columns, section.rows), ""]
        lines += [f"{sentence(section.unit)}.", ""]
    return lines
