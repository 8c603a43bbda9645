"""The page's figures; matplotlib is imported with this file, so import this file only to draw."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from corral.records import Curve
from corral.report.palette import CLASS_COLOURS, TRACK, line_style
from corral.report.runs.collect import Arrays
from corral.report.svg import PageFigure, drawing, new_figure, page_figure, quiet

MOST_POINTS = 500
MOST_NAMED_CLASSES = 20
# Of more classes a page would be too large with each drawn for itself.
MOST_SINGLE_CLASSES = 100
_RIGHT: Any = {"markersize": 3.2, "alpha": 0.75, "markeredgewidth": 0}
_WRONG: Any = {"markersize": 5, "markeredgewidth": 1.5}
_WHITE_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}


# A row of accuracies in [0, 1]: its label, and one of each column, None where it was not measured.
Span = tuple[str, Sequence[float | None]]
# Characters of a line of a row's label.
LABEL_WIDTH = 24
_SPAN_MARKERS = ("o", "s", "D", "v", "^", "P", "X", "<", ">")


def curves_figure(
    lines: Sequence[tuple[int, str, Curve]], *, chance: float, eps: float | None, name: str, description: str
) -> PageFigure:
    """Accuracy against eps, one line a run, with the chance level and the eps of the tables marked.

    Args:
        lines: the number of each run on the page, its label and its curve, all under one attack and norm.
        chance: accuracy of guessing, in [0, 1].
        eps: the eps of the tables, None where it is of another norm.
        name: unique on the page, here and in the other figures.
        description: the text alternative.
    """
    with drawing(name):
        figure, axes = new_figure(4.8, 3.2)
        axes.axhline(100 * chance, color="#555555", linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(
            f"chance {100 * chance:.3g}%", (0, 100 * chance), xycoords=("axes fraction", "data"),
            xytext=(3, 2), textcoords="offset points", ha="left", va="bottom", fontsize=8, color="#444444",
        )  # fmt: skip
        if eps is not None:
            axes.axvline(eps, color="#999999", linewidth=1, zorder=0)
        for run, label, curve in lines:
            order = np.argsort(curve.eps)
            style = line_style(run)
            axes.plot(
                np.asarray(curve.eps)[order], 100 * np.asarray(curve.accuracy)[order], color=style.colour,
                marker=style.marker, linestyle=style.dash, linewidth=1.8, markersize=5, clip_on=False,
                label=label, gid=f"run:{run}",
            )  # fmt: skip
        axes.set(xlabel=f"eps ({lines[0][2].norm}, pixels in [0, 1])", ylabel="accuracy, %", ylim=(0, 100))
        axes.set_xlim(left=0)
        quiet(axes, grid="y")
        return page_figure(figure, name, description)


def spans_figure(
    spans: Sequence[Span],
    titles: Sequence[str],
    *,
    chance: float,
    name: str,
    description: str,
    runs: Sequence[str] | None = None,
) -> PageFigure:
    """The accuracies of each run: one line a run, first on top; one marker an accuracy, `titles` in the legend.

    `runs` are the numbers on the page of the runs of each row, "3" or "3 4", for the page's filters.
    """
    labels = ["\n".join(wrap(label, LABEL_WIDTH, break_on_hyphens=False)) for label, _ in spans]
    lines = sum(label.count("\n") for label in labels)
    with drawing(name):
        figure, axes = new_figure(4.8, 0.95 + 0.42 * len(spans) + 0.1 * lines + 0.2 * len(titles))
        styles = [_span_style(column) for column in range(len(titles))]
        for row, (_, accuracies) in enumerate(spans):
            gid = None if runs is None else f"run:{runs[row]}"
            known = [100 * value for value in accuracies if value is not None]
            axes.plot([min(known), max(known)], [row, row], color=TRACK, linewidth=2, zorder=1, gid=gid)
            for column, (title, value) in enumerate(zip(titles, accuracies, strict=True)):
                if value is not None:
                    at = {"clip_on": False, "zorder": 2 + column, "label": title, "gid": gid}
                    axes.plot([100 * value], [row], **styles[column], **at)
        axes.axvline(100 * chance, color="#555555", linewidth=1, linestyle=(0, (1, 2)), zorder=0)
        axes.set_yticks(range(len(spans)), labels)
        for words, of_runs in zip(axes.get_yticklabels(), runs or (), strict=False):
            words.set_gid(f"run:{of_runs}")
        axes.set(xlabel="accuracy, % (dotted: chance)", xlim=(0, 100), ylim=(len(spans) - 0.5, -0.5))
        quiet(axes, grid="x", left=False)
        handles = [Line2D([], [], **style, label=title) for style, title in zip(styles, titles, strict=True)]
        figure.legend(
            handles=handles, loc="outside upper left", ncols=1, frameon=False, fontsize=8.5, handletextpad=0.3
        )
        return page_figure(figure, name, description)


def _span_style(column: int) -> dict[str, Any]:
    """How the accuracies of a column are marked: the first, on clean images, by open circles."""
    colour = line_style(column).colour
    return {
        "linestyle": "none",
        "marker": _SPAN_MARKERS[column % len(_SPAN_MARKERS)],
        "markersize": max(8 - column, 5),
        "markerfacecolor": "white" if column == 0 else colour,
        "markeredgecolor": colour,
        "markeredgewidth": 1.6,
    }


def features_figure(arrays: Arrays, classes: Sequence[str], *, name: str, description: str) -> PageFigure:
    """The first `MOST_POINTS` test features, coloured by label; wrong predictions are crosses, centroids stars."""
    points, labels = arrays.features2d[:MOST_POINTS], arrays.features_labels[:MOST_POINTS]
    predicted = arrays.features_predicted[:MOST_POINTS]
    with drawing(name):
        figure, axes = new_figure(3.4, 3.4)
        if len(classes) <= MOST_SINGLE_CLASSES:
            _draw_classes(axes, points, labels, predicted, classes)
        else:
            _draw_colours(axes, points, labels, predicted)
        for at, label in zip(arrays.centroids2d, arrays.centroids_classes, strict=True):
            colour = CLASS_COLOURS[int(label) % len(CLASS_COLOURS)]
            axes.plot(
                [at[0]], [at[1]], "*", markersize=12, markerfacecolor=colour, markeredgecolor="black",
                markeredgewidth=1, zorder=5, label=f"centroid of {classes[int(label)]}", gid=f"class:{int(label)}",
            )  # fmt: skip
        for at, label in _names(arrays, points, labels, classes):
            offset = (0, 6) if len(arrays.centroids2d) else (0, 0)
            axes.annotate(
                _short(classes[label]), at, xytext=offset, textcoords="offset points", ha="center", va="bottom",
                fontsize=8.5, color="black", bbox=_WHITE_BOX, zorder=6, gid=f"class:{label}",
            )  # fmt: skip
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xticks=[], yticks=[])
        axes.margins(0.06)
        axes.spines[:].set_color("#cccccc")
        return page_figure(figure, name, description)


def _draw_classes(axes: Any, points: Any, labels: Any, predicted: Any, classes: Sequence[str]) -> None:
    """The points of each class by what is predicted, which the page's filters and values know."""
    for label, kind in enumerate(classes):
        of_class: Any = {"color": CLASS_COLOURS[label % len(CLASS_COLOURS)], "gid": f"class:{label}"}
        right, wrong = (labels == label) & (predicted == label), (labels == label) & (predicted != label)
        axes.plot(*points[right].T, "o", **_RIGHT, label=kind, **of_class)
        if len(classes) > MOST_NAMED_CLASSES:
            axes.plot(*points[wrong].T, "x", **_WRONG, label=f"{kind}, predicted wrong", **of_class)
            continue
        for other in np.unique(predicted[wrong]).tolist():
            chosen = points[wrong & (predicted == other)]
            axes.plot(*chosen.T, "x", **_WRONG, label=f"{kind}, predicted {classes[other]}", **of_class)


def _draw_colours(axes: Any, points: Any, labels: Any, predicted: Any) -> None:
    """The points of many classes, those of one colour together."""
    for place, colour in enumerate(CLASS_COLOURS):
        of_colour, right = labels % len(CLASS_COLOURS) == place, labels == predicted
        axes.plot(*points[of_colour & right].T, "o", **_RIGHT, color=colour, label="predicted right")
        axes.plot(*points[of_colour & ~right].T, "x", **_WRONG, color=colour, label="predicted wrong")


def _names(arrays: Arrays, points: Any, labels: Any, classes: Sequence[str]) -> list[tuple[Any, int]]:
    """Where to write which class's name: at centroids, or at the class means of a head without any."""
    if len(classes) > MOST_NAMED_CLASSES:
        return []
    if len(arrays.centroids2d):
        # One name a class, at its first centroid: names at every centroid would cover each other.
        owners, firsts = np.unique(arrays.centroids_classes, return_index=True)
        return [(arrays.centroids2d[i], int(c)) for c, i in zip(owners, firsts, strict=True)]
    present = [label for label in range(len(classes)) if (labels == label).any()]
    return [(points[labels == label].mean(0), label) for label in present]


def _short(text: str) -> str:
    return text if len(text) <= 26 else f"{text[:25]}…"
