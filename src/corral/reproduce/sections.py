"""The analyses of a table's rows as sections of its page: a table each, words, and what is drawn of them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from corral.evaluation.analyses.document import Analysis, AnalysisName
from corral.report.analysis_words import WORDS
from corral.reproduce.result import ResultPart, ResultRow

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

    name: AnalysisName | None
    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    unit: str


def sections(part: ResultPart) -> tuple[Section, ...]:
    """The sections of a part, for the analyses that any of its rows has."""
    made = []
    for name, build in _BUILDERS.items():
        rows = [row for row in part.rows if row.analyses.get(name)]
        if rows:
            made.append(build(rows))
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
    rows: Sequence[ResultRow], name: AnalysisName, columns: Sequence[tuple[str, str, float, int]]
) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            row.shown,
            *(over_seeds(row.analyses[name], key, scale=scale, digits=digits) for _, key, scale, digits in columns),
        )
        for row in rows
    )


def _along(rows: Sequence[ResultRow]) -> Section:
    columns = [
        ("d²/2σ² to the own centroid", "own", 1.0, 1),
        ("to the nearest rival", "rival", 1.0, 1),
        ("kept, exponentiated", "kept exponentiated", 100.0, 1),
        ("kept, log space", "kept log", 100.0, 1),
    ]
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
    for row, line in zip(rows, _by_row(rows, "along", columns), strict=True):
        curves = [mean_series(row.analyses["along"], series) for _, series, _, _ in ends]
        shown = [end[3].format(curve[end[2]]) if curve else NONE for end, curve in zip(ends, curves, strict=True)]
        cells.append((*line, *shown))
    return Section(
        name="along",
        title="The gradient along the attack",
        text="The published PGD-20, one restart, from the same random starts by either kind of score, on the test "
        "images that are classified right. Float32 has exp(-x) = 0 from x = 104 on; long before that a rival's score "
        "vanishes beside the own one, and the gradient no longer says where the rival is: “pixels of one sign” is how "
        "far the two gradients agree at the exponentiated attack's own points (50% is chance).",
        columns=("trained", *(title for title, *_ in columns), *(title for title, *_ in ends)),
        rows=tuple(cells),
        unit="percent of images; d²/2σ² and norms are medians over images; mean, ± sd, over seeds",
    )


_CHANGES = {
    "clean": "no attack",
    "published": "as published: exponentiated scores of the D nearest clusters, verdict of the restart of highest loss",
    "every cluster": "… scores of every cluster (no D-nearest cut)",
    "log scores, cut": "… log-space scores, of the D nearest clusters",
    "log scores": "… log-space scores, of every cluster",
    "any iterate": "… any iterate of any restart counts",
    "whole ball": "… steps of eps/8, which cross the ball",
    "log scores, any iterate": "log-space scores, and any iterate counts",
    "log scores, any iterate, whole ball": "log-space scores, any iterate, and steps of eps/8",
    "clean, batch statistics": "no attack, the model in train mode (statistics of the test batch)",
    "batch statistics": "… the model in train mode",
}


def _changes(rows: Sequence[ResultRow]) -> Section:
    found = []
    for key, title in _CHANGES.items():
        cells = tuple(over_seeds(row.analyses["changes"], key, scale=100.0) for row in rows)
        if any(cell != NONE for cell in cells):
            found.append((title, *cells))
    return Section(
        name="changes",
        title="The published attack with one part changed",
        text="PGD-20, 10 restarts, step 2/255. Each line with “…” changes one thing of the published protocol and "
        "nothing else, so that what it takes away was that part's doing.",
        columns=("attack", *(row.shown for row in rows)),
        rows=tuple(found),
        unit="percent of the test images that are kept; mean ± sd over seeds",
    )


def _plain(name: AnalysisName, rows: Sequence[ResultRow]) -> Section:
    """A section whose rows are the runs and whose cells are numbers of their analyses."""
    meant = WORDS[name]
    counts = sorted({analysis.n for row in rows for analysis in row.analyses[name]})
    images = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
    return Section(
        name=name,
        title=meant.title,
        text=meant.text,
        columns=("trained", *(title for title, *_ in meant.columns)),
        rows=_by_row(rows, name, meant.columns),
        unit=f"{meant.unit}; {images} images a seed",
    )


_BUILDERS: dict[AnalysisName, Callable[[Sequence[ResultRow]], Section]] = {
    "features": partial(_plain, "features"),
    "along": _along,
    "changes": _changes,
    "adversary": partial(_plain, "adversary"),
    "bounds": partial(_plain, "bounds"),
    "radii": partial(_plain, "radii"),
    "match": partial(_plain, "match"),
    "cosine": partial(_plain, "cosine"),
    "compactness": partial(_plain, "compactness"),
    "norms": partial(_plain, "norms"),
    "embedding": partial(_plain, "embedding"),
    "silhouettes": partial(_plain, "silhouettes"),
    "pursuit": partial(_plain, "pursuit"),
}
