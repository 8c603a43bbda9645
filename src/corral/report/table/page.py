"""A table's page: published, ours under the published protocol, ours under a sound attack, side by side."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corral.report.analysis.registry import figures_of
from corral.report.table.sections import Section
from corral.report.template import filled
from corral.report.words import sentence, slug

if TYPE_CHECKING:
    from corral.report.svg import PageFigure


@dataclass(frozen=True)
class ColumnGroup:
    """Columns below one title: each a heading and its kind, "published", "ours" or "sound"."""

    title: str
    headings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Overview:
    """The accuracies of a part's rows as a figure: marks on one line a row, or a curve a row.

    Attributes:
        caption: below the figure.
        description: the text alternative.
        rows: label of each row, and by column of `titles`, or by radius, its accuracies in [0, 1]. Of curves the first
            series are the radii, then the accuracies under the paper's protocol and in the worst case.
        titles: what the marks are; empty for curves.
        chance: accuracy of guessing, in [0, 1].
        norm: of the radii.
    """

    caption: str
    description: str
    rows: tuple[tuple[str, tuple[Any, ...]], ...]
    titles: tuple[str, ...] = ()
    chance: float = 0.0
    norm: str = ""


@dataclass(frozen=True)
class PartTable:
    """One data set of a table: its columns, its rows as text with the name first, and what stands below.

    Attributes:
        data: our data set.
        beside: the paper's.
        threat: what the runs were attacked with.
        reading: what stands beside what, and the setting.
        groups: the columns.
        rows: name and cells of each row.
        meanings: what the columns mean, a sentence each.
        remarks: on rows.
        overview: the accuracies as a figure; None for none.
        sections: tables below this one.
    """

    data: str
    beside: str
    threat: str
    reading: str
    groups: tuple[ColumnGroup, ...]
    rows: tuple[tuple[str, ...], ...]
    meanings: tuple[str, ...]
    remarks: tuple[str, ...]
    overview: Overview | None
    sections: tuple[Section, ...]

    @property
    def headings(self) -> list[tuple[str, str]]:
        """Heading and kind of every column behind the rows' names."""
        return [heading for group in self.groups for heading in group.headings]


@dataclass(frozen=True)
class TablePage:
    """Everything that the page of a table says; `made` is with what and when, `estimate` what the full scale costs."""

    name: str
    scale: str
    title: str
    source: str
    note: str
    command: str
    parts: tuple[PartTable, ...]
    made: str
    estimate: str


def render(page: TablePage) -> str:
    """The page as HTML; equal pages give equal bytes."""
    # Imported late: matplotlib takes longer than the rest of the page.
    from corral.report.table.figures import overview_figure

    def place(part: PartTable) -> str:
        return f"{slug(part.data)}-{slug(part.beside)}"

    def overview(part: PartTable) -> "PageFigure | None":
        return None if part.overview is None else overview_figure(part.overview, place(part))

    def figures(part: PartTable, section: Section) -> "list[tuple[str, PageFigure]]":
        name = f"{section.analysis}-{slug(part.data)}"
        return [*figures_of(section.analysis or "", section.analyses, [], name=name, table=True)]

    return filled(
        "corral.report.table",
        "page.html",
        page=page,
        place=place,
        overview=overview,
        figures=figures,
        sentence=sentence,
    )
