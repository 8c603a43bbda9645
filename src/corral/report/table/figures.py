"""The overview figures of a table; matplotlib is imported with this file, so import it only to draw."""

import math

import numpy as np
from matplotlib.figure import Figure

from corral.report.palette import line_style
from corral.report.runs.figures import spans_figure
from corral.report.svg import PageFigure, drawing, new_figure, page_figure, quiet
from corral.report.table.page import Overview


def overview_figure(overview: Overview, place: str) -> PageFigure:
    """The accuracies of a part's rows ; `place` is unique on the page."""
    name = f"overview-{place}"
    if overview.titles:
        return spans_figure(
            overview.rows, overview.titles, chance=overview.chance, name=name, description=overview.description
        )
    with drawing(name):
        return page_figure(_curves(overview), name, overview.description)


def _curves(overview: Overview) -> Figure:
    """Accuracy against eps, two lines a row: the paper's protocol dashed, the worst case full."""
    figure, axes = new_figure(5.2, 3.4)
    for number, (label, (eps, protocol, sound)) in enumerate(overview.rows):
        style = line_style(number)
        axes.plot(
            eps, 100 * np.asarray(sound), color=style.colour, marker=style.marker, markersize=4.5, linewidth=1.8,
            clip_on=False, label=label,
        )  # fmt: skip
        axes.plot(
            eps, 100 * np.asarray(protocol), color=style.colour, linewidth=1.2, linestyle="--",
            label=f"{label}, the paper's protocol",
        )  # fmt: skip
    highest = max(max(*protocol, *sound) for _, (_, protocol, sound) in overview.rows)
    axes.set(xlabel=f"eps ({overview.norm}, pixels in [0, 1])", ylabel="accuracy, %")
    axes.set_ylim(0, min(100, 20 * math.ceil(5 * highest + 0.25)))
    axes.set_xlim(left=0)
    quiet(axes, grid="y")
    sound = axes.lines[::2]
    figure.legend(
        handles=sound, loc="outside upper left", ncols=1 if _longest(overview) > 24 else 2, frameon=False, fontsize=8
    )
    return figure


def _longest(overview: Overview) -> int:
    return max(len(label) for label, _ in overview.rows)
