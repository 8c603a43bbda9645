"""Figures of a table's analyses; matplotlib is imported with this file, so import this file only to draw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter

from corral.report.palette import line_style
from corral.report.svg import drawing, finished_svg, new_figure, quiet

# What a logarithmic axis shows in the place of zero.
FLOOR = 1e-45


@dataclass(frozen=True)
class RadiusCurves:
    """One row's curves: the grid of radii, and the shares certified and truly robust beyond each."""

    label: str
    grid: Sequence[float]
    certified: Sequence[float]
    true: Sequence[float]


@dataclass(frozen=True)
class Square:
    """One row's decisions on the unit square: `cells`, `first`, `second` and `labels` of the analysis `radii`."""

    label: str
    series: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class AccuracyLine:
    """One row's accuracies in [0, 1] by ascending `eps`: under the paper's protocol, and the worst case per image."""

    label: str
    eps: Sequence[float]
    protocol: Sequence[float]
    sound: Sequence[float]


def accuracies_figure(lines: Sequence[AccuracyLine], *, norm: str, name: str, description: str) -> str:
    """Accuracy against eps, two lines a row: the paper's protocol dashed, the worst case full.

    Args:
        lines: one a row, first in the legend.
        norm: of eps.
        name: unique on the page.
        description: the text alternative.
    """
    with drawing(name):
        figure, axes = new_figure(5.6, 3.2)
        for number, line in enumerate(lines):
            style = line_style(number)
            axes.plot(
                line.eps, 100 * np.asarray(line.sound), color=style.colour, marker=style.marker, markersize=4.5,
                linewidth=1.8, clip_on=False, label=line.label,
            )  # fmt: skip
            axes.plot(line.eps, 100 * np.asarray(line.protocol), color=style.colour, linewidth=1.2, linestyle="--")
        highest = max(max(*line.protocol, *line.sound) for line in lines)
        top = min(100, 20 * math.ceil(5 * highest + 0.25))
        axes.set(xlabel=f"eps ({norm}, pixels in [0, 1])", ylabel="accuracy, %", ylim=(0, top))
        axes.set_xlim(left=0)
        quiet(axes, grid="y")
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)
        return finished_svg(figure, name, description)


def gradients_figure(
    zero: Mapping[str, Sequence[float]], norms: Mapping[str, Sequence[float]], *, name: str, description: str
) -> str:
    """Zero-gradient share and median gradient norm along an attack, one line for each kind of score.

    Args:
        zero: shares in [0, 1] by kind, one for each iterate.
        norms: median norms by kind, one for each iterate.
        name: unique on the page.
        description: the text alternative.
    """
    with drawing(name):
        figure, (left, right) = new_figure(7.2, 2.6, columns=2)
        for place, kind in enumerate(zero):
            style = line_style(place)
            options = {"color": style.colour, "marker": style.marker, "markersize": 3.5, "linewidth": 1.6}
            left.plot(100 * np.asarray(zero[kind]), clip_on=False, label=kind, **options)
            right.plot(np.maximum(np.asarray(norms[kind]), FLOOR), label=kind, **options)
        left.set(xlabel="PGD step", ylabel="images with gradient 0, %", ylim=(0, 100))
        right.set(xlabel="PGD step", ylabel="median gradient norm", yscale="log")
        shown = [max(value, FLOOR) for values in norms.values() for value in values]
        right.set_ylim(10 ** math.floor(math.log10(min(shown))), 10 ** math.ceil(math.log10(max(shown)) + 1e-9))
        right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
        right.yaxis.set_minor_formatter(NullFormatter())
        left.legend(frameon=False, fontsize=8.5)
        for axes in (left, right):
            axes.set_xlim(left=0)
            quiet(axes, grid="y")
        return finished_svg(figure, name, description)


def radii_figure(curves: Sequence[RadiusCurves], *, name: str, description: str) -> str:
    """Certified (full lines) and true (dashed) robust accuracy against the radius.

    Args:
        curves: one a row, first in the legend.
        name: unique on the page.
        description: the text alternative.
    """
    with drawing(name):
        figure, axes = new_figure(5.6, 3.0)
        for number, row in enumerate(curves):
            colour = line_style(number).colour
            axes.plot(row.grid, 100 * np.asarray(row.certified), color=colour, linewidth=1.8, label=row.label)
            axes.plot(row.grid, 100 * np.asarray(row.true), color=colour, linewidth=1.2, linestyle="--")
        axes.set(xlabel="l2 radius", ylabel="points, %", ylim=(0, 100))
        axes.set_xlim(left=0)
        quiet(axes, grid="y")
        axes.legend(frameon=False, fontsize=8)
        return finished_svg(figure, name, description)


def squares_figure(squares: Sequence[Square], *, name: str, description: str) -> str:
    """The class decided at each point of the unit square, one square a row of the table, with the test points.

    Args:
        squares: one a row.
        name: unique on the page.
        description: the text alternative.
    """
    with drawing(name):
        rows = math.ceil(len(squares) / 2)
        figure, axes = new_figure(4.6, 2.4 * rows, rows=rows, columns=2)
        for place in axes.flat[len(squares) :]:
            place.set_visible(False)
        for place, square in zip(axes.flat, squares, strict=False):
            cells = np.asarray(square.series["cells"])
            side = round(len(cells) ** 0.5)
            steps = np.linspace(0, 1, side)
            labels = np.asarray(square.series["labels"])
            place.contourf(
                steps, steps, cells.reshape(side, side), levels=[-0.5, 0.5, 1.5], colors=["#dbe9f6", "#fdf0d5"]
            )
            for label, colour in enumerate(("#0072B2", "#D55E00")):
                shown = labels == label
                place.plot(
                    np.asarray(square.series["first"])[shown], np.asarray(square.series["second"])[shown],
                    linestyle="none", marker=".", markersize=3, color=colour,
                )  # fmt: skip
            place.set(aspect="equal", xticks=[], yticks=[])
            place.set_title("\n".join(wrap(square.label, 28)), fontsize=8.5)
        return finished_svg(figure, name, description)
