"""Figures of analyses; matplotlib is imported with this file, so import this file only to draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from corral.report.palette import CLASS_COLOURS, line_style
from corral.report.svg import drawing, finished_svg, new_figure, quiet


@dataclass(frozen=True)
class Range:
    """One row of a ranges figure: its label, both ends, and the marked values in between by what they are."""

    label: str
    low: float
    high: float
    marks: Mapping[str, float]


def ranges_figure(ranges: Sequence[Range], *, unit: str, name: str, description: str) -> str:
    """One bar a row from its low to its high end, with marks.

    Args:
        ranges: the rows, first on top; all with the same marks.
        unit: of the axis.
        name: unique on the page.
        description: the text alternative.
    """
    with drawing(name):
        figure, axes = new_figure(5.2, 1.0 + 0.42 * len(ranges))
        places = np.arange(len(ranges))
        for place, row in enumerate(ranges):
            axes.plot([row.low, row.high], [place, place], color="#bbbbbb", linewidth=5, solid_capstyle="butt")
        for number, mark in enumerate(ranges[0].marks):
            style = line_style(number)
            axes.plot(
                [row.marks[mark] for row in ranges], places, linestyle="none", marker=style.marker, markersize=6,
                color=style.colour, label=mark, zorder=3 + number,
            )  # fmt: skip
        axes.set_yticks(places, [row.label for row in ranges])
        axes.set(xlabel=unit, ylim=(len(ranges) - 0.5, -0.5))
        axes.set_xlim(left=0)
        quiet(axes, grid="x", left=False)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8.5, handletextpad=0.3)
        return finished_svg(figure, name, description)


def shares_figure(shares: Mapping[str, float], *, name: str, description: str) -> str:
    """One bar a share, with its percent.

    Args:
        shares: in [0, 1] by what they are, first on top.
        name: unique on the page.
        description: the text alternative.
    """
    with drawing(name):
        figure, axes = new_figure(5.2, 0.7 + 0.36 * len(shares))
        places = np.arange(len(shares))
        values = [100 * value for value in shares.values()]
        axes.barh(places, values, height=0.55, color=line_style(0).colour)
        for place, value in zip(places, values, strict=True):
            axes.annotate(f"{value:.1f}", (value, place), xytext=(4, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, list(shares))
        axes.set(xlabel="images, %", xlim=(0, 108), ylim=(len(shares) - 0.5, -0.5))
        axes.set_xticks(range(0, 101, 20))
        quiet(axes, grid=None, left=False)
        return finished_svg(figure, name, description)


def classes_figure(
    kinds: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    classes: Sequence[str],
    *,
    unit: str,
    name: str,
    description: str,
) -> str:
    """Mean and standard deviation of each class, the kinds side by side.

    Args:
        kinds: means and deviations by class, by what they are.
        classes: their names.
        unit: of the axis.
        name: unique on the page.
        description: the text alternative.
    """
    with drawing(name):
        figure, axes = new_figure(max(4.2, 1.2 + 0.42 * len(classes)), 2.7)
        places = np.arange(len(classes))
        for number, (kind, (means, deviations)) in enumerate(kinds.items()):
            style = line_style(number)
            shift = (number - (len(kinds) - 1) / 2) * 0.28
            axes.errorbar(
                places + shift, means, deviations, linestyle="none", marker=style.marker, markersize=5,
                color=style.colour, elinewidth=1.2, capsize=2, label=kind,
            )  # fmt: skip
        axes.set_xticks(places, list(classes), rotation=90 if max(map(len, classes)) > 3 else 0)
        axes.set(ylabel=unit, xlim=(-0.6, len(classes) - 0.4))
        quiet(axes, grid="y")
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8.5, handletextpad=0.3)
        return finished_svg(figure, name, description)


def left_figure(distances: Mapping[str, Sequence[float]], count: int, *, name: str, description: str) -> str:
    """The share of images for which an attack found nothing nearer, against the distance.

    Args:
        distances: ascending, by attack: those of the images that it broke.
        count: images that it was given.
        name: unique on the page.
        description: the text alternative.
    """
    with drawing(name):
        figure, axes = new_figure(5.2, 2.8)
        for number, (attack, values) in enumerate(distances.items()):
            left = 100 * (1 - np.arange(len(values) + 1) / count)
            style = line_style(number)
            axes.step([0.0, *values], left, where="post", color=style.colour, linestyle=style.dash, label=attack)
        axes.set(xlabel="l2 distance, pixels in [0, 1]", ylabel="images not broken within, %", ylim=(0, 100))
        axes.set_xlim(left=0)
        axes.legend(frameon=False, fontsize=8.5)
        quiet(axes, grid="y")
        return finished_svg(figure, name, description)


def curve_figure(
    places: Sequence[float], values: Sequence[float], *, xlabel: str, ylabel: str, name: str, description: str
) -> str:
    """One curve, its highest point marked.

    Args:
        places: ascending.
        values: as many.
        xlabel: of the axis of places.
        ylabel: of the axis of values.
        name: unique on the page.
        description: the text alternative.
    """
    with drawing(name):
        figure, axes = new_figure(5.2, 2.8)
        first, second = line_style(0), line_style(1)
        axes.plot(places, values, color=first.colour, marker=first.marker, markersize=5)
        best = int(np.argmax(values))
        axes.annotate(
            f"{places[best]:g}", (places[best], values[best]), xytext=(0, 7), textcoords="offset points", ha="center"
        )
        axes.plot(places[best], values[best], color=second.colour, marker=first.marker, markersize=8)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.margins(y=0.2)
        quiet(axes, grid="y")
        return finished_svg(figure, name, description)


def embedding_figure(series: Mapping[str, Sequence[float]], *, name: str, description: str) -> str:
    """Clean and attacked features in the plane, coloured by true and by predicted class.

    Args:
        series: of the analysis `embedding`.
        name: unique on the page.
        description: the text alternative.
    """
    first, second = np.asarray(series["first"]), np.asarray(series["second"])
    attacked = np.asarray(series["attacked"]) > 0
    with drawing(name):
        figure, panels = new_figure(7.6, 3.9, columns=2)
        for axes, key, title in zip(
            panels, ("label", "predicted"), ("by true class", "by predicted class"), strict=True
        ):
            kinds = np.asarray(series[key]).astype(int)
            for marker, shown, size in ((".", ~attacked, 34), ("^", attacked, 16)):
                colours = [CLASS_COLOURS[kind % len(CLASS_COLOURS)] for kind in kinds[shown]]
                axes.scatter(first[shown], second[shown], s=size, c=colours, marker=marker, linewidths=0, alpha=0.8)
            axes.set(xticks=[], yticks=[], title=title)
            axes.set_aspect("equal", adjustable="datalim")
        return finished_svg(figure, name, description)


def widths_figure(widths: Mapping[str, float], *, name: str, description: str) -> str:
    """Silhouette widths, one mark each on a line from -1 to 1.

    Args:
        widths: in [-1, 1] by what they are, first on top.
        name: unique on the page.
        description: the text alternative.
    """
    with drawing(name):
        figure, axes = new_figure(5.2, 0.8 + 0.36 * len(widths))
        places = np.arange(len(widths))
        axes.axvline(0, color="#555555", linewidth=1, linestyle=(0, (1, 2)))
        axes.hlines(places, 0, list(widths.values()), color="#bbbbbb", linewidth=4)
        axes.plot(list(widths.values()), places, linestyle="none", marker="o", color=line_style(0).colour)
        axes.set_yticks(places, list(widths))
        axes.set(xlabel="mean silhouette width", xlim=(-1, 1), ylim=(len(widths) - 0.5, -0.5))
        axes.set_xticks([-1, -0.5, 0, 0.5, 1])
        quiet(axes, grid=None, left=False)
        return finished_svg(figure, name, description)
