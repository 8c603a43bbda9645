"""The figures of the analyses that corral ships; matplotlib is imported with this file, so import it only to draw."""

import math
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from corral.analysis.document import mean_number, mean_series
from corral.analysis.registry import described
from corral.report.analysis.registry import AnalysesByRun, register_figure
from corral.report.palette import AREAS, CLASS_COLOURS, TRACK, line_style
from corral.report.svg import new_figure, quiet

Figures = Iterator[tuple[str, Figure]]
# What a logarithmic axis shows in the place of zero.
FLOOR = 1e-45
# Above so many classes colours repeat too often for a legend; the values beside the pointer name them.
MOST_LEGEND_CLASSES = 20
KEYS = {"label": "true", "predicted": "predicted"}


@register_figure("embedding", in_tables=True)
def embedding(runs: AnalysesByRun, classes: Sequence[str]) -> Figures:
    """Clean and attacked features in the plane, coloured by true and by predicted class, with a legend of classes."""
    for label, (found, *_) in runs.items():
        first, second = np.asarray(found.series["first"]), np.asarray(found.series["second"])
        attacked = np.asarray(found.series["attacked"]) > 0
        figure, panels = new_figure(7.6, 4.3, columns=2)
        present: set[int] = set()
        for axes, key in zip(panels, ("label", "predicted"), strict=True):
            kinds = np.asarray(found.series[key]).astype(int)
            for kind in np.unique(kinds).tolist():
                name, colour = _class_name(kind, classes), CLASS_COLOURS[kind % len(CLASS_COLOURS)]
                for marker, chosen, size, words in ((".", ~attacked, 34, "clean"), ("^", attacked, 16, "attacked")):
                    shown = chosen & (kinds == kind)
                    axes.scatter(
                        first[shown], second[shown], s=size, c=colour, marker=marker, linewidths=0, alpha=0.8,
                        label=f"{KEYS[key]} {name}, {words}", gid=f"class:{kind}",
                    )  # fmt: skip
                present.add(kind)
            axes.set(xticks=[], yticks=[], title=f"by {KEYS[key]} class")
            axes.set_aspect("equal", adjustable="datalim")
        if len(present) <= MOST_LEGEND_CLASSES:
            handles = [
                Line2D([], [], linestyle="none", marker="o", color=CLASS_COLOURS[kind % len(CLASS_COLOURS)])
                for kind in sorted(present)
            ]
            names = [_class_name(kind, classes) for kind in sorted(present)]
            figure.legend(handles, names, loc="outside lower center", ncols=10, frameon=False, fontsize=8.5)
        yield f"{label}, first seed: dots are clean images, triangles attacked ones", figure


def _class_name(kind: int, classes: Sequence[str]) -> str:
    """The name of a class, or its number below a table of runs, whose classes may differ."""
    return classes[kind] if kind < len(classes) else str(kind)


@register_figure("cosine")
def cosine(runs: AnalysesByRun, classes: Sequence[str]) -> Figures:
    """Mean and standard deviation of each class's cosines, clean and attacked side by side."""
    kinds = {"clean": "clean", "PGD": "pgd"}
    for found, *_ in runs.values():
        known = {kind: key for kind, key in kinds.items() if f"{key} by class" in found.series}
        if not known:
            continue
        figure, axes = new_figure(max(4.2, 1.2 + 0.42 * len(classes)), 2.7)
        places = np.arange(len(classes))
        for number, (kind, key) in enumerate(known.items()):
            style = line_style(number)
            axes.errorbar(
                places + (number - 0.5) * 0.28, found.series[f"{key} by class"], found.series[f"{key} sd by class"],
                linestyle="none", marker=style.marker, markersize=5, color=style.colour, elinewidth=1.2, capsize=2,
                label=kind,
            )  # fmt: skip
        axes.set_xticks(places, list(classes), rotation=90 if max(map(len, classes)) > 3 else 0)
        axes.set(ylabel="cosine, by predicted class", xlim=(-0.6, len(classes) - 0.4))
        quiet(axes, grid="y")
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8.5, handletextpad=0.3)
        yield "", figure


@register_figure("norms")
def norms(runs: AnalysesByRun, classes: Sequence[str]) -> Figures:
    """The share of images for which an attack found no misclassified image within a distance, against the distance."""
    for found, *_ in runs.values():
        figure, axes = new_figure(5.2, 2.8)
        for number, (attack, key) in enumerate((("C&W", "cw"), ("DDN", "ddn"))):
            distances = found.series[f"{key} distances"]
            robust = 100 * (1 - np.arange(len(distances) + 1) / max(1, round(found.numbers["right"])))
            style = line_style(number)
            axes.step([0.0, *distances], robust, where="post", color=style.colour, linestyle=style.dash, label=attack)
        axes.set(xlabel="l2 distance, pixels in [0, 1]", ylabel="images robust within it, %", ylim=(0, 100))
        axes.set_xlim(left=0)
        axes.legend(frameon=False, fontsize=8.5)
        quiet(axes, grid="y")
        yield "", figure


@register_figure("match")
@register_figure("features")
def columns_in_percent(runs: AnalysesByRun, classes: Sequence[str]) -> Figures:
    """One bar a column of percent."""
    for found, *_ in runs.values():
        columns = [column for column in described(found.name).columns if column.scale == 100]
        if known := {c.heading: found.numbers[c.number] for c in columns if c.number in found.numbers}:
            yield "", _bars(known)


@register_figure("cluster_attack")
def cluster_attack(runs: AnalysesByRun, classes: Sequence[str]) -> Figures:
    """One bar a perturbation: the share of images that it makes misclassified."""
    kinds = {"noise": "noise", "toward": "pursuit", "away": "away", "both": "both", "with labels": "labelled"}
    for found, *_ in runs.values():
        shares = {words: found.numbers.get(f"{key} success") for words, key in kinds.items()}
        if known := {words: share for words, share in shares.items() if share is not None}:
            yield "", _bars(known)


def _bars(shares: Mapping[str, float]) -> Figure:
    """One bar a share in [0, 1], first on top, with its percent."""
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
    return figure


@register_figure("silhouettes")
def silhouettes(runs: AnalysesByRun, classes: Sequence[str]) -> Figures:
    """Mean silhouette against the number of clusters, the highest point marked."""
    for found, *_ in runs.values():
        k, width = found.series["k"], found.series["width"]
        figure, axes = new_figure(5.2, 2.8)
        first, second = line_style(0), line_style(1)
        axes.plot(k, width, color=first.colour, marker=first.marker, markersize=5)
        best = int(np.argmax(width))
        axes.annotate(f"{k[best]:g}", (k[best], width[best]), xytext=(0, 7), textcoords="offset points", ha="center")
        axes.plot(k[best], width[best], color=second.colour, marker=first.marker, markersize=8)
        axes.set(xlabel="clusters K", ylabel="mean silhouette")
        axes.margins(y=0.2)
        quiet(axes, grid="y")
        yield "", figure


@register_figure("compactness")
def compactness(runs: AnalysesByRun, classes: Sequence[str]) -> Figures:
    """Silhouette widths, one mark each on a line from -1 to 1."""
    for found, *_ in runs.values():
        columns = [column for column in described(found.name).columns if column.number.startswith("silhouette")]
        widths = {c.heading: found.numbers[c.number] for c in columns if c.number in found.numbers}
        if not widths:
            continue
        figure, axes = new_figure(5.2, 0.8 + 0.36 * len(widths))
        places = np.arange(len(widths))
        axes.axvline(0, color="#555555", linewidth=1, linestyle=(0, (1, 2)))
        axes.hlines(places, 0, list(widths.values()), color=TRACK, linewidth=4)
        axes.plot(list(widths.values()), places, linestyle="none", marker="o", color=line_style(0).colour)
        axes.set_yticks(places, list(widths))
        axes.set(xlabel="mean silhouette width", xlim=(-1, 1), ylim=(len(widths) - 0.5, -0.5))
        axes.set_xticks([-1, -0.5, 0, 0.5, 1])
        quiet(axes, grid=None, left=False)
        yield "", figure


@register_figure("bounds", in_tables=True)
def bounds(runs: AnalysesByRun, classes: Sequence[str]) -> Figures:
    """One bar a run from the lower to the upper bound of Eq. 3, with the published and the exact radius marked."""
    marks = {"published radius": "pair_unsound", "exact radius": "exact"}
    needed = {"lower", "upper", *marks.values()}
    known = {label: of_run for label, of_run in runs.items() if all(needed <= one.numbers.keys() for one in of_run)}
    if not known:
        return
    figure, axes = new_figure(5.2, 1.0 + 0.42 * len(known))
    places = np.arange(len(known))
    for place, of_run in zip(places, known.values(), strict=True):
        ends = [mean_number(of_run, "lower"), mean_number(of_run, "upper")]
        axes.plot(ends, [place, place], color=TRACK, linewidth=5, solid_capstyle="butt", label="bounds")
    for number, (mark, key) in enumerate(marks.items()):
        style = line_style(number)
        axes.plot(
            [mean_number(of_run, key) for of_run in known.values()], places, linestyle="none", marker=style.marker,
            markersize=6, color=style.colour, label=mark, zorder=3 + number,
        )  # fmt: skip
    axes.set_yticks(places, list(known))
    axes.set(xlabel="median, in units of σ", ylim=(len(known) - 0.5, -0.5))
    axes.set_xlim(left=0)
    quiet(axes, grid="x", left=False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8.5, handletextpad=0.3)
    yield "Eq. 3: the bars reach from its lower to its upper bound", figure


@register_figure("gradient_norms", in_tables=True)
def gradient_norms(runs: AnalysesByRun, classes: Sequence[str]) -> Figures:
    """Share of zero gradients and median gradient norm along the attack, one line for each kind of score."""
    for label, of_run in runs.items():
        zero, norm = (
            {score: mean_series(of_run, f"{kind} {score}") for score in ("exponentiated", "log")}
            for kind in ("zero", "norm")
        )
        if not zero["log"]:
            continue
        figure, (left, right) = new_figure(7.2, 2.6, columns=2)
        for place, kind in enumerate(zero):
            style = line_style(place)
            options = {"color": style.colour, "marker": style.marker, "markersize": 3.5, "linewidth": 1.6}
            left.plot(100 * np.asarray(zero[kind]), clip_on=False, label=kind, **options)
            right.plot(np.maximum(np.asarray(norm[kind]), FLOOR), label=kind, **options)
        left.set(xlabel="PGD step", ylabel="images with gradient 0, %", ylim=(0, 100))
        right.set(xlabel="PGD step", ylabel="median gradient norm", yscale="log")
        shown = [max(value, FLOOR) for values in norm.values() for value in values]
        right.set_ylim(10 ** math.floor(math.log10(min(shown))), 10 ** math.ceil(math.log10(max(shown)) + 1e-9))
        right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
        right.yaxis.set_minor_formatter(NullFormatter())
        left.legend(frameon=False, fontsize=8.5)
        for axes in (left, right):
            axes.set_xlim(left=0)
            quiet(axes, grid="y")
        yield label, figure


@register_figure("radii", in_tables=True)
def radii(runs: AnalysesByRun, classes: Sequence[str]) -> Figures:
    """Certified and true accuracy against the radius; then the class decided at each point of the unit square."""
    figure, axes = new_figure(5.6, 3.0)
    for number, (label, of_run) in enumerate(runs.items()):
        colour = line_style(number).colour
        grid, certified, true = (mean_series(of_run, name) for name in ("grid", "certified global", "true"))
        axes.plot(grid, 100 * np.asarray(certified), color=colour, linewidth=1.8, label=label)
        axes.plot(grid, 100 * np.asarray(true), color=colour, linewidth=1.2, linestyle="--", label=f"{label}, true")
    axes.set(xlabel="l2 radius", ylabel="points, %", ylim=(0, 100))
    axes.set_xlim(left=0)
    quiet(axes, grid="y")
    axes.legend(handles=axes.lines[::2], frameon=False, fontsize=8)
    yield "Share of the points classified right with a larger radius: certified (full) and true (dashed)", figure

    rows = math.ceil(len(runs) / 2)
    figure, panels = new_figure(4.6, 2.4 * rows, rows=rows, columns=2)
    for axes in panels.flat[len(runs) :]:
        axes.set_visible(False)
    for axes, (label, (first_seed, *_)) in zip(panels.flat, runs.items(), strict=False):
        series = {name: np.asarray(values) for name, values in first_seed.series.items()}
        side = round(len(series["cells"]) ** 0.5)
        steps, cells = np.linspace(0, 1, side), series["cells"].reshape(side, side)
        axes.contourf(steps, steps, cells, levels=[-0.5, 0.5, 1.5], colors=list(AREAS))
        for number, colour in enumerate(("#0072B2", "#D55E00")):
            shown = series["labels"] == number
            points = series["first"][shown], series["second"][shown]
            axes.plot(*points, linestyle="none", marker=".", markersize=3, color=colour, label=f"class {number}")
        axes.set(aspect="equal", xticks=[], yticks=[])
        axes.set_title("\n".join(wrap(label, 28)), fontsize=8.5)
    yield "Which class is decided where, first seed, with the test points", figure
