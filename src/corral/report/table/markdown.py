"""A table as Markdown, for readers of the repository: the same cells as the page."""

from collections.abc import Sequence

from corral.report.table.page import PartTable, TablePage
from corral.report.words import sentence

UNIT = "Percent of the test images, unless a heading names a unit; ± is the sample standard deviation over seeds."


def as_markdown(page: TablePage) -> str:
    """The table, its analyses and how they were made; equal pages give equal text."""
    lines = [f"# {page.title}", "", f"{page.source}. `{page.command}`", ""]
    lines += [page.note, ""] if page.note else []
    for part in page.parts:
        lines += _part(part)
    return "\n".join([*lines, f"{page.made} Cost: {page.estimate}", ""])


def rows_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table's lines; the first column is text, the others numbers."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    rule = ["---", *("---:" for _ in header[1:])]
    return [f"| {' | '.join(row)} |" for row in (escaped[0], rule, *escaped[1:])]


def _part(part: PartTable) -> list[str]:
    titles = [
        f"**{title}** ({group.title[0].lower()}{group.title[1:]})" if kind == "sound" else title
        for group in part.groups
        for title, kind in group.headings
    ]
    kinds = ["", *(kind for _, kind in part.headings)]
    rows = [
        [f"**{cell}**" if kind == "sound" else cell for cell, kind in zip(row, kinds, strict=True)] for row in part.rows
    ]
    lines = [f"## {part.data}, {part.threat}", "", part.reading, "", *rows_of(["Method", *titles], rows), ""]
    lines += [UNIT, "", *(f"- {words}" for words in (*part.meanings, *part.remarks)), ""]
    for section in part.sections:
        lines += [f"### {section.title}", "", section.text, "", *rows_of(section.columns, section.rows), ""]
        lines += [f"{sentence(section.unit)}.", ""]
    return lines
