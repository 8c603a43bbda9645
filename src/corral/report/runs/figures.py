"""The page's figures; matplotlib is imported with this file, so import this file only to draw."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from corral.records import Curve
from corral.report.palette import CLASS_COLOURS, line_style
from corral.report.runs.collect import Arrays
from corral.report.svg import drawing, finished_svg, new_figure, quiet

MOST_POINTS = 500
MOST_NAMED_CLASSES = 20
_WHITE_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}


# A row of accuracies in [0, 1]: its label, and one of each column, None where it was not measured.
Span = tuple[str, Sequence[float | None]]


def curves_figure(
    lines: Sequence[tuple[int, Curve]], *, chance: float, eps: float | None, name: str, description: str
) -> Markup:
    """Accuracy against eps, one line a run, with the chance level and the eps of the tables marked.

    Args:
        lines: the number of each run on the page and its curve, all under one attack and norm.
        chance: accuracy of guessing, in [0, 1].
        eps: the eps of the tables, None where it is of another norm.
        name: unique on the page, here and in the other figures.
        description: the text alternative.
    """
    with drawing(name):
        figure, axes = new_figure(4.1, 3.0)
        axes.axhline(100 * chance, color="#555555", linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(
            f"chance {100 * chance:.3g}%", (0, 100 * chance), xycoords=("axes fraction", "data"),
            xytext=(3, 2), textcoords="offset points", ha="left", va="bottom", fontsize=8, color="#444444",
        )  # fmt: skip
        if eps is not None:
            axes.axvline(eps, color="#999999", linewidth=1, zorder=0)
        for run, curve in lines:
            order = np.argsort(curve.eps)
            style = line_style(run)
            axes.plot(
                np.asarray(curve.eps)[order], 100 * np.asarray(curve.accuracy)[order], color=style.colour,
                marker=style.marker, linestyle=style.dash, linewidth=1.8, markersize=5, clip_on=False,
            )  # fmt: skip
        axes.set(xlabel=f"eps ({lines[0][1].norm}, pixels in [0, 1])", ylabel="accuracy, %", ylim=(0, 100))
        axes.set_xlim(left=0)
        quiet(axes, grid="y")
        return finished_svg(figure, name, description)


def spans_figure(spans: Sequence[Span], titles: Sequence[str], *, chance: float, name: str, description: str) -> Markup:
    """The accuracies of each run: one line a run, first on top; one marker an accuracy, `titles` in the legend."""
    with drawing(name):
        figure, axes = new_figure(4.1, 0.95 + 0.42 * len(spans) + 0.2 * len(titles))
        rows = np.arange(len(spans))
        for row, (_, accuracies) in enumerate(spans):
            known = [100 * value for value in accuracies if value is not None]
            axes.plot([min(known), max(known)], [row, row], color="#bbbbbb", linewidth=2, zorder=1)
        markers = ("o", "s", "D", "v", "^", "P", "X", "<", ">")
        for column, title in enumerate(titles):
            of_column = [accuracies[column] for _, accuracies in spans]
            values = [math.nan if value is None else 100 * value for value in of_column]
            style = line_style(column)
            axes.plot(
                values, rows, linestyle="none", marker=markers[column % len(markers)], markersize=max(8 - column, 5),
                markerfacecolor="white" if column == 0 else style.colour, markeredgecolor=style.colour,
                markeredgewidth=1.6, label=title, clip_on=False, zorder=2 + column,
            )  # fmt: skip
        axes.axvline(100 * chance, color="#555555", linewidth=1, linestyle=(0, (1, 2)), zorder=0)
        axes.set_yticks(rows, [_short(label) for label, _ in spans])
        axes.set(xlabel="accuracy, % (dotted: chance)", xlim=(0, 100), ylim=(len(spans) - 0.5, -0.5))
        quiet(axes, grid="x", left=False)
        figure.legend(loc="outside upper left", ncols=1, frameon=False, fontsize=8.5, handletextpad=0.3)
        return finished_svg(figure, name, description)


def features_figure(arrays: Arrays, classes: Sequence[str], *, name: str, description: str) -> Markup:
    """The first `MOST_POINTS` test features, coloured by label; wrong predictions are crosses, centroids stars."""
    points, labels = arrays.features2d[:MOST_POINTS], arrays.features_labels[:MOST_POINTS]
    right = arrays.features_predicted[:MOST_POINTS] == labels
    with drawing(name):
        figure, axes = new_figure(3.4, 3.4)
        for label in range(len(classes)):
            colour = CLASS_COLOURS[label % len(CLASS_COLOURS)]
            dots, crosses = points[(labels == label) & right], points[(labels == label) & ~right]
            axes.plot(*dots.T, "o", markersize=3.2, color=colour, alpha=0.75, markeredgewidth=0)
            axes.plot(*crosses.T, "x", markersize=5, color=colour, markeredgewidth=1.5)
        for at, label in zip(arrays.centroids2d, arrays.centroids_classes, strict=True):
            colour = CLASS_COLOURS[int(label) % len(CLASS_COLOURS)]
            axes.plot(
                *at, "*", markersize=12, markerfacecolor=colour, markeredgecolor="black", markeredgewidth=1, zorder=5
            )
        for at, text in _names(arrays, points, labels, classes):
            offset = (0, 6) if len(arrays.centroids2d) else (0, 0)
            axes.annotate(
                text, at, xytext=offset, textcoords="offset points", ha="center", va="bottom", fontsize=8.5,
                color="black", bbox=_WHITE_BOX, zorder=6,
            )  # fmt: skip
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xticks=[], yticks=[])
        axes.margins(0.06)
        axes.spines[:].set_color("#cccccc")
        return finished_svg(figure, name, description)


def _names(arrays: Arrays, points: Any, labels: Any, classes: Sequence[str]) -> list[tuple[Any, str]]:
    """Where to write class names: at centroids, or at the class means of a head without any."""
    if len(classes) > MOST_NAMED_CLASSES:
        return []
    if len(arrays.centroids2d):
        # One name a class, at its first centroid: names at every centroid would cover each other.
        owners, firsts = np.unique(arrays.centroids_classes, return_index=True)
        return [(arrays.centroids2d[i], _short(classes[int(c)])) for c, i in zip(owners, firsts, strict=True)]
    present = [label for label in range(len(classes)) if (labels == label).any()]
    return [(points[labels == label].mean(0), _short(classes[label])) for label in present]


def _short(text: str) -> str:
    return text if len(text) <= 26 else f"{text[:25]}…"
