"""The figures of analyses, by the name of the analysis; an outsider registers them beside the analysis."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corral.analysis import Analysis
from corral.analysis.registry import described
from corral.registry import Registry

if TYPE_CHECKING:
    from corral.report.svg import PageFigure

# An analysis of several runs: by the run's label, the analyses of its seeds.
AnalysesByRun = Mapping[str, Sequence[Analysis]]
# Takes these and the names of the classes; gives captions and matplotlib figures.
Draw = Callable[[AnalysesByRun, Sequence[str]], Iterable[tuple[str, Any]]]


@dataclass(frozen=True)
class AnalysisFigures:
    """What draws an analysis, and whether tables of several runs show it too."""

    draw: Draw
    in_tables: bool


FIGURES: Registry[AnalysisFigures] = Registry(
    "figure", group="corral.analysis_figures", package="corral.report.analysis"
)


def register_figure(analysis: str, *, in_tables: bool = False) -> Callable[[Draw], Draw]:
    """Register a function that draws an analysis; a decorator.

    The function is given the analyses by the label of their run, a sequence over seeds each, and the names of the
    classes; it gives pairs of a caption, "" for none, and a `matplotlib.figure.Figure`.

    Args:
        analysis: name of the analysis.
        in_tables: draw it below tables of several runs too, not only on the page of one run.

    Raises:
        UsageError: another function draws that analysis.
    """

    def added(draw: Draw) -> Draw:
        FIGURES.add(analysis, AnalysisFigures(draw, in_tables), source=draw)
        return draw

    return added


def figures_of(
    analysis: str, runs: AnalysesByRun, classes: Sequence[str], *, name: str, table: bool = False
) -> "list[tuple[str, PageFigure]]":
    """The figures of an analysis, each with its caption.

    Args:
        analysis: name of the analysis.
        runs: by label, the analyses of each run's seeds.
        classes: names of the classes.
        name: unique on the page.
        table: whether they stand below a table of several runs.
    """
    from corral.report.svg import drawing, page_figure  # late: matplotlib takes long to import

    if analysis not in FIGURES or (table and not FIGURES[analysis].in_tables):
        return []
    title = described(analysis).title
    with drawing(name):
        return [
            (caption, page_figure(figure, f"{name}-{i}", f"{title}: {caption}" if caption else title))
            for i, (caption, figure) in enumerate(FIGURES[analysis].draw(runs, classes))
        ]
