"""The figure of each analysis that has one; matplotlib is imported with this file, so import it only to draw."""

from collections.abc import Callable

from corral.analysis import Analysis
from corral.analysis.registry import described
from corral.report.analysis import charts

# What a figure is made of: the analysis, the names of the classes, and the chart's name and text alternative.
Draw = Callable[[Analysis, list[str], str, str], str | None]
_FIGURES: dict[str, Draw] = {}


def figure_of(analysis: Analysis, classes: list[str]) -> str | None:
    """An analysis as SVG; None where it has no figure, or nothing to draw."""
    draw = _FIGURES.get(analysis.name)
    return None if draw is None else draw(analysis, classes, analysis.name, described(analysis.name).title)


def _draws(name: str) -> Callable[[Draw], Draw]:
    def added(draw: Draw) -> Draw:
        _FIGURES[name] = draw
        return draw

    return added


@_draws("embedding")
def _embedding(found: Analysis, classes: list[str], name: str, title: str) -> str:
    return charts.embedding_figure(found.series, name=name, description=title)


@_draws("cosine")
def _cosine(found: Analysis, classes: list[str], name: str, title: str) -> str:
    kinds = {
        words: (found.series[f"{key} by class"], found.series[f"{key} sd by class"])
        for words, key in (("clean", "clean"), ("PGD", "pgd"))
    }
    return charts.classes_figure(kinds, classes, unit="cosine, by predicted class", name=name, description=title)


@_draws("norms")
def _norms(found: Analysis, classes: list[str], name: str, title: str) -> str:
    distances = {"C&W": found.series["cw distances"], "DDN": found.series["ddn distances"]}
    return charts.left_figure(distances, max(1, round(found.numbers["right"])), name=name, description=title)


@_draws("match")
@_draws("features")
def _shares(found: Analysis, classes: list[str], name: str, title: str) -> str:
    columns = [column for column in described(found.name).columns if column.scale == 100]
    shares = {column.heading: found.numbers[column.number] for column in columns if column.number in found.numbers}
    return charts.shares_figure(shares, name=name, description=title)


@_draws("silhouettes")
def _silhouettes(found: Analysis, classes: list[str], name: str, title: str) -> str:
    k, width = found.series["k"], found.series["width"]
    return charts.curve_figure(k, width, xlabel="clusters K", ylabel="mean silhouette", name=name, description=title)


@_draws("pursuit")
def _pursuit(found: Analysis, classes: list[str], name: str, title: str) -> str | None:
    pushes = {"noise": "noise", "toward": "pursuit", "away": "away", "both": "both", "with labels": "labelled"}
    broken = {
        words: found.numbers[f"{key} success"] for words, key in pushes.items() if f"{key} success" in found.numbers
    }
    return charts.shares_figure(broken, name=name, description=title) if broken else None


@_draws("compactness")
def _compactness(found: Analysis, classes: list[str], name: str, title: str) -> str:
    widths = {
        column.heading: found.numbers[column.number]
        for column in described(found.name).columns
        if column.number in found.numbers and column.number.startswith("silhouette")
    }
    return charts.widths_figure(widths, name=name, description=title)


@_draws("bounds")
def _bounds(found: Analysis, classes: list[str], name: str, title: str) -> str | None:
    numbers = found.numbers
    if not {"lower", "upper", "pair_unsound", "exact"} <= numbers.keys():
        return None
    marks = {"published radius": numbers["pair_unsound"], "exact radius": numbers["exact"]}
    row = charts.Range("this run", numbers["lower"], numbers["upper"], marks)
    return charts.ranges_figure([row], unit="median, in units of σ", name=name, description=title)
