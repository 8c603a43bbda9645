"""What is drawn of the analyses of a table's rows; matplotlib is imported with this file, so import it only to draw."""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from corral.papers.figures import RadiusCurves, Square, gradients_figure, radii_figure, squares_figure
from corral.papers.result import ResultPart, ResultRow
from corral.papers.sections import Section, mean_number, mean_series
from corral.report.analysis.charts import Range, embedding_figure, ranges_figure
from corral.report.words import slug

# Figures with their captions.
Drawn = list[tuple[str, Markup]]


def drawn(section: Section, part: ResultPart) -> Drawn:
    """The figures of a section, each with its caption."""
    draw = _DRAWN.get(section.name or "")
    return [] if draw is None else draw([row for row in part.rows if row.analyses.get(section.name or "")], part)


def _along(rows: Sequence[ResultRow], part: ResultPart) -> Drawn:
    found = []
    for number, row in enumerate(rows):
        analyses = row.analyses["along"]
        zero, norms = (
            {score: mean_series(analyses, f"{kind} {score}") for score in ("exponentiated", "log")}
            for kind in ("zero", "norm")
        )
        if zero["log"]:
            name = f"along-{slug(part.data)}-{number}"
            svg = gradients_figure(zero, norms, name=name, description=f"Gradients along PGD, {row.shown}")
            found.append((row.shown, Markup(svg)))
    return found


def _bounds(rows: Sequence[ResultRow], part: ResultPart) -> Drawn:
    marks = {"published radius": "pair_unsound", "exact radius": "exact"}
    needed = {"lower", "upper", *marks.values()}
    ranges = [
        Range(
            row.shown,
            mean_number(row.analyses["bounds"], "lower"),
            mean_number(row.analyses["bounds"], "upper"),
            {title: mean_number(row.analyses["bounds"], key) for title, key in marks.items()},
        )
        for row in rows
        if all(needed <= analysis.numbers.keys() for analysis in row.analyses["bounds"])
    ]
    if not ranges:
        return []
    name, words = f"bounds-{slug(part.data)}", "Eq. 3: the bars reach from its lower to its upper bound"
    return [(words, Markup(ranges_figure(ranges, unit="median, in units of σ", name=name, description=words)))]


def _embedding(rows: Sequence[ResultRow], part: ResultPart) -> Drawn:
    return [
        (
            f"{row.shown}, first seed: dots are clean images, triangles attacked ones",
            Markup(
                embedding_figure(
                    row.analyses["embedding"][0].series,
                    name=f"embedding-{slug(part.data)}-{number}",
                    description=f"Features of {row.shown} in the plane, by true and by predicted class",
                )
            ),
        )
        for number, row in enumerate(rows)
    ]


def _radii(rows: Sequence[ResultRow], part: ResultPart) -> Drawn:
    """Certified accuracy curves, and the cells of each row's first seed."""
    curves = [
        RadiusCurves(
            row.shown,
            mean_series(row.analyses["radii"], "grid"),
            mean_series(row.analyses["radii"], "certified global"),
            mean_series(row.analyses["radii"], "true"),
        )
        for row in rows
    ]
    squares = [Square(row.shown, row.analyses["radii"][0].series) for row in rows]
    name = slug(part.data)
    words = "Share of the points classified right with a larger radius: certified (full) and true (dashed)"
    cells = "Which class is decided where, first seed, with the test points"
    return [
        (words, Markup(radii_figure(curves, name=f"radii-{name}", description=words))),
        (cells, Markup(squares_figure(squares, name=f"cells-{name}", description=cells))),
    ]


_DRAWN: dict[str, Callable[[Sequence[ResultRow], ResultPart], Drawn]] = {
    "along": _along,
    "bounds": _bounds,
    "embedding": _embedding,
    "radii": _radii,
}
