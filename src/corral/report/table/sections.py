"""Tables below a table: the analyses of its rows, or a comparison of them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from corral.analysis import Analysis
from corral.analysis.document import mean_series
from corral.analysis.registry import described
from corral.report.analysis.registry import AnalysesByRun

NONE = "–"


@dataclass(frozen=True)
class Section:
    """One table below a table.

    Attributes:
        title: what it asks.
        text: what was done and how to read it.
        columns: headings; the first is of the rows' own names.
        rows: cells as text, the first of each row its name.
        unit: of the cells.
        analysis: name of the analysis that it shows; None where it is of the accuracies.
        analyses: those that are drawn, by row.
    """

    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    unit: str
    analysis: str | None = None
    analyses: AnalysesByRun = field(default_factory=dict)


def analysis_sections(rows: Mapping[str, Mapping[str, Sequence[Analysis]]]) -> list[Section]:
    """A section for each analysis that any row has.

    Args:
        rows: by the label of a row, its analyses of each seed by name.
    """
    names = dict.fromkeys(name for analyses in rows.values() for name in analyses)
    by_name = {name: {row: found[name] for row, found in rows.items() if found.get(name)} for name in names}
    return [_section(name, runs) for name, runs in by_name.items() if runs]


def _section(name: str, runs: AnalysesByRun) -> Section:
    """A line a row and a column a number of the analysis, or the other way round."""
    kind = described(name)
    analyses = [analysis for of_run in runs.values() for analysis in of_run]
    columns = kind.columns_of(number for analysis in analyses for number in analysis.numbers)
    headings = [*(column.heading for column in columns), *(point.heading for point in kind.curve_points)]
    cells = []
    for of_run in runs.values():
        numbers = [over_seeds(of_run, number, scale=scale, digits=digits) for _, number, scale, digits in columns]
        curves = [(mean_series(of_run, point.series), point) for point in kind.curve_points]
        cells.append([*numbers, *(format(curve[at.place], at.form) if curve else NONE for curve, at in curves)])
    first, table = ("trained", *headings), [(row, *line) for row, line in zip(runs, cells, strict=True)]
    if kind.transposed:
        lines = zip(headings, *cells, strict=True)
        first, table = ("attack", *runs), [line for line in lines if set(line[1:]) != {NONE}]
    counts = sorted({analysis.n for analysis in analyses})
    images = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
    unit = f"{kind.unit or 'mean ± sd over seeds'}; {images} images a seed"
    return Section(kind.title, kind.text, first, tuple(table), unit, name, runs)


def over_seeds(analyses: Sequence[Analysis], number: str, *, scale: float = 1.0, digits: int = 1) -> str:
    """Mean and sample standard deviation of a number over the seeds; a dash where no seed has it."""
    values = [scale * analysis.numbers[number] for analysis in analyses if number in analysis.numbers]
    if not values:
        return NONE
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
