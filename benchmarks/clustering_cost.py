"""What spherical k-means and a silhouette cost against the number of points n, of clusters K and of features d.

usage: OMP_NUM_THREADS=1 python benchmarks/clustering_cost.py [--repeats 5] [--picture docs/clustering-cost.svg]

One of n, K and d varies, the other two stay; Gaussian points, one process, CPU seconds, medians. An iteration of Lloyd
is the difference of two calls that are allowed 6 and 1. The exponent is of the least squares line through the last
three points on log axes: 1 where a cost is proportional.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from torch import Tensor

from corral.geometry import cosine_silhouette, kmeans
from corral.report.svg import drawing, new_figure, quiet, svg_file

POINTS, CLUSTERS, FEATURES = 20_000, 100, 128
VARIED = {
    "n points": (1_250, 2_500, 5_000, 10_000, 20_000, 40_000, 80_000),
    "K clusters": (10, 20, 50, 100, 200, 500, 1_000),
    "d features": (16, 32, 64, 128, 256, 512, 1_024),
}
WORK = ("k-means++ seeding", "AFK-MC2 seeding", "one iteration of Lloyd", "silhouette of one K")
LONG, SHORT = 6, 1


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def fit(points: Tensor, k: int, iterations: int, seeding: str = "afk-mc2") -> Tensor:
    """Assignments after at most so many iterations."""
    generator = torch.Generator().manual_seed(0)
    return kmeans(
        points, k, spherical=True, max_iterations=iterations, seeding=seeding, generator=generator
    ).assignments


def costs(n: int, k: int, d: int, repeats: int) -> dict[str, float]:
    """Median CPU seconds of each part of choosing K by silhouettes."""
    points = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    assignments = fit(points, k, LONG)
    found: dict[str, list[float]] = {name: [] for name in WORK}
    for _ in range(repeats):
        plus, short = cpu(lambda: fit(points, k, SHORT, "k-means++")), cpu(lambda: fit(points, k, SHORT))
        step = max(cpu(lambda: fit(points, k, LONG)) - short, 0.0) / (LONG - SHORT)
        silhouette = cpu(lambda: cosine_silhouette(points, assignments))
        for name, seconds in zip(WORK, (plus - step, short - step, step, silhouette), strict=True):
            found[name].append(seconds)
    return {name: statistics.median(values) for name, values in found.items()}


def exponent(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """The slope of the last three points on log axes."""
    return float(np.polyfit(np.log(sizes[-3:]), np.log(seconds[-3:]), 1)[0])


def draw(measured: dict[str, dict[str, list[float]]], file: Path) -> None:
    """One panel for each of n, K and d."""
    colours, marks = ("#0072b2", "#56b4e9", "#d55e00", "#009e73"), ("o", "s", "^", "D")
    held = {"n points": f"n = {POINTS:,}", "K clusters": f"K = {CLUSTERS}", "d features": f"d = {FEATURES}"}
    with drawing("clustering-cost"):
        figure, panels = new_figure(9.6, 3.4, columns=len(measured))
        for axes, (name, parts) in zip(panels, measured.items(), strict=True):
            for part, colour, mark in zip(WORK, colours, marks, strict=True):
                axes.plot(VARIED[name], parts[part], color=colour, marker=mark, markersize=4, label=part)
            axes.set(xscale="log", yscale="log", xlabel=name, ylim=(1e-4, 30))
            axes.set_title(", ".join(text for other, text in held.items() if other != name), fontsize=9.5)
            for axis, ticks in ((axes.xaxis, VARIED[name][::2]), (axes.yaxis, (1e-4, 1e-3, 1e-2, 0.1, 1, 10))):
                axis.set_major_locator(FixedLocator(ticks))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
                axis.set_minor_locator(NullLocator())
            quiet(axes, grid="y")
        panels[0].set_ylabel("CPU seconds, one thread")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(WORK), frameon=False)
        text = svg_file(figure, "clustering-cost", "CPU seconds of k-means and silhouette against n, K and d")
    file.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--picture", type=Path, help="where to draw the measurements, an SVG file")
    arguments = parser.parse_args()
    measured: dict[str, dict[str, list[float]]] = {}
    for name, sizes in VARIED.items():
        parts: dict[str, list[float]] = {part: [] for part in WORK}
        for size in sizes:
            n, k, d = (
                size if name == varied else fixed
                for varied, fixed in zip(VARIED, (POINTS, CLUSTERS, FEATURES), strict=True)
            )
            found = costs(n, k, d, arguments.repeats)
            for part in WORK:
                parts[part].append(max(found[part], 1e-5))
            told = ", ".join(f"{part} {found[part]:.4f}" for part in WORK)
            print(f"n {n}, K {k}, d {d}: {told} s", flush=True)
        told = ", ".join(f"{part} {exponent(sizes, parts[part]):.2f}" for part in WORK)
        print(f"exponent in {name}: {told}", flush=True)
        measured[name] = parts
    if arguments.picture:
        draw(measured, arguments.picture)


if __name__ == "__main__":
    main()
