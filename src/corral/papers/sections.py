"""The analyses of a table's rows as sections of its page: a table each, words, and what is drawn of them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from corral.analysis import Analysis
from corral.analysis.registry import described
from corral.papers.result import ResultPart, ResultRow

NONE = "–"


@dataclass(frozen=True)
class Section:
    """One analysis over the rows that have it.

    Attributes:
        name: the analysis; None where it is of the accuracies.
        title: what it asks.
        text: what was done and how to read it.
        columns: headings; the first is of the rows' own names.
        rows: cells as text, the first of each row its name.
        unit: of the cells.
    """

    name: str | None
    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    unit: str


def sections(part: ResultPart) -> tuple[Section, ...]:
    """The sections of a part, for the analyses that any of its rows has."""
    made = []
    for name in dict.fromkeys(name for row in part.rows for name in row.analyses):
        rows = [row for row in part.rows if row.analyses.get(name)]
        if rows:
            made.append(_SPECIAL[name](rows) if name in _SPECIAL else _plain(name, rows))
    return tuple(made)


def over_seeds(analyses: Sequence[Analysis], number: str, *, scale: float = 1.0, digits: int = 1) -> str:
    """Mean and sample standard deviation of a number over the seeds; a dash where no seed has it."""
    values = [scale * analysis.numbers[number] for analysis in analyses if number in analysis.numbers]
    if not values:
        return NONE
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def mean_series(analyses: Sequence[Analysis], name: str) -> tuple[float, ...]:
    """The mean curve over the seeds."""
    curves = [analysis.series[name] for analysis in analyses if name in analysis.series]
    return tuple(statistics.mean(values) for values in zip(*curves, strict=True))


def mean_number(analyses: Sequence[Analysis], number: str) -> float:
    """The mean of a number over the seeds, all of which have it."""
    return statistics.mean(analysis.numbers[number] for analysis in analyses)


def _by_row(
    rows: Sequence[ResultRow], name: str, columns: Sequence[tuple[str, str, float, int]]
) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            row.shown,
            *(over_seeds(row.analyses[name], key, scale=scale, digits=digits) for _, key, scale, digits in columns),
        )
        for row in rows
    )


def _along(rows: Sequence[ResultRow]) -> Section:
    kind = described("along")
    ends = [
        (f"{title}, {score}, {when}", f"{kind} {score}", place, shown)
        for kind, title, shown in (("zero", "gradient 0", "{:.1%}"), ("norm", "gradient norm", "{:.1e}"))
        for score in ("exponentiated", "log")
        for place, when in ((0, "start"), (-1, "end"))
    ]
    ends += [
        (f"pixels of one sign, {when}", "alike exponentiated", place, "{:.1%}")
        for place, when in ((0, "start"), (-1, "end"))
    ]
    cells = []
    for row, line in zip(rows, _by_row(rows, "along", kind.columns), strict=True):
        curves = [mean_series(row.analyses["along"], series) for _, series, _, _ in ends]
        shown = [end[3].format(curve[end[2]]) if curve else NONE for end, curve in zip(ends, curves, strict=True)]
        cells.append((*line, *shown))
    return Section(
        name="along",
        title=kind.title,
        text=kind.text,
        columns=("trained", *(title for title, *_ in kind.columns), *(title for title, *_ in ends)),
        rows=tuple(cells),
        unit=kind.unit,
    )


def _changes(rows: Sequence[ResultRow]) -> Section:
    kind = described("changes")
    found = []
    for title, key, scale, digits in kind.columns:
        cells = tuple(over_seeds(row.analyses["changes"], key, scale=scale, digits=digits) for row in rows)
        if any(cell != NONE for cell in cells):
            found.append((title, *cells))
    return Section(
        name="changes",
        title=kind.title,
        text=kind.text,
        columns=("attack", *(row.shown for row in rows)),
        rows=tuple(found),
        unit=kind.unit,
    )


def _plain(name: str, rows: Sequence[ResultRow]) -> Section:
    """A section whose rows are the runs and whose cells are numbers of their analyses."""
    kind = described(name)
    columns = kind.columns_of(number for row in rows for analysis in row.analyses[name] for number in analysis.numbers)
    counts = sorted({analysis.n for row in rows for analysis in row.analyses[name]})
    images = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
    return Section(
        name=name,
        title=kind.title,
        text=kind.text,
        columns=("trained", *(title for title, *_ in columns)),
        rows=_by_row(rows, name, columns),
        unit=f"{kind.unit or 'mean ± sd over seeds'}; {images} images a seed",
    )


# Analyses whose sections are laid out otherwise.
_SPECIAL: dict[str, Callable[[Sequence[ResultRow]], Section]] = {"along": _along, "changes": _changes}
