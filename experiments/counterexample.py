"""Draw docs/counterexample.svg: where the papers' radius for more than two classes is too large.

usage: python experiments/counterexample.py [--check]

--check draws nothing and exits with 1 if the committed figure differs.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Circle

from corral.certify import nearest_radius, published_radius_unsound
from corral.report.palette import line_style
from corral.report.svg import drawing, new_figure, svg_file

OUT = Path(__file__).resolve().parents[1] / "docs" / "counterexample.svg"
CENTROIDS = torch.tensor([[-1.0, 0.0], [0.0, 1.5], [1.55, 0.0]])
CLASSES = torch.arange(3)
MOVE = (0.3, 0.0)
WORDS = (
    "Three centroids and the cells of the nearest one. Around the origin, decided by the left centroid, the published "
    "radius 0.347 reaches into the right centroid's cell; the sound radius 0.275 ends at it. A move of 0.3 to the "
    "right lies between them and changes the class."
)


def figure() -> str:
    """The figure as SVG."""
    origin = torch.zeros(1, 2)
    claimed = float(published_radius_unsound(origin, CENTROIDS, CLASSES))
    sound = float(nearest_radius(origin, CENTROIDS, CLASSES))
    steps = torch.linspace(-1.3, 1.9, 321), torch.linspace(-0.7, 1.8, 251)
    grid = torch.stack(torch.meshgrid(*steps, indexing="xy"), -1)
    cells = torch.cdist(grid.flatten(0, 1), CENTROIDS).argmin(1).view(grid.shape[:2]).numpy()
    with drawing("counterexample"):
        drawn, axes = new_figure(5.6, 4.4)
        axes.contourf(
            *(values.numpy() for values in steps), cells, levels=[-0.5, 0.5, 1.5, 2.5],
            cmap=ListedColormap(["#dbe9f6", "#fdf0d5", "#e3f1df"]),
        )  # fmt: skip
        for place, (x, y) in enumerate(CENTROIDS.tolist()):
            axes.plot(x, y, marker="*", markersize=12, color="#333333")
            axes.annotate(f"μ{place + 1}", (x, y), xytext=(6, 6), textcoords="offset points")
        for radius, number, words, place in (
            (claimed, 1, f"published, {claimed:.3f}: unsound", (0.1, -0.52)),
            (sound, 0, f"sound, {sound:.3f}", (-1.2, 0.42)),
        ):
            style = line_style(number)
            axes.add_patch(Circle((0, 0), radius, fill=False, linewidth=1.8, color=style.colour, linestyle=style.dash))
            edge = radius * np.asarray(place) / np.linalg.norm(place)
            axes.annotate(
                words,
                tuple(edge),
                xytext=place,
                color=style.colour,
                arrowprops={"arrowstyle": "-", "color": style.colour},
            )
        axes.plot(0, 0, marker="o", markersize=5, color="#333333")
        axes.plot(*MOVE, marker="X", markersize=7, color="#333333")
        axes.annotate("moved by 0.3: class 3", MOVE, xytext=(0.45, 0.3), arrowprops={"arrowstyle": "-"})
        axes.set(aspect="equal", xlabel="first feature", ylabel="second feature")
        axes.spines[["top", "right"]].set_visible(False)
        return svg_file(drawn, "counterexample", WORDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    drawn = figure()
    if parser.parse_args().check:
        same = OUT.is_file() and OUT.read_text(encoding="utf-8") == drawn
        print(f"{OUT.name}: {'as drawn' if same else 'another figure'}")
        sys.exit(0 if same else 1)
    OUT.write_text(drawn, encoding="utf-8")
    print(f"wrote {OUT}")


if __name__ == "__main__":
    main()
