"""matplotlib figures as inline SVG without links; matplotlib is imported with this file, so import it only to draw."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, Literal

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


def new_figure(width: float, height: float, *, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of this size in inches and its axes, or an array of them where there are several."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots(rows, columns)


def quiet(axes: Any, *, grid: Literal["x", "y"] | None, left: bool = True) -> None:
    """Leave of the axes' frame what is read: no top and right side, thin grid lines of one direction.

    Args:
        axes: matplotlib's.
        grid: the axis whose values get lines; None for no lines.
        left: keep the left side and its ticks, which name rows need not.
    """
    axes.spines[["top", "right"]].set_visible(False)
    if not left:
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    if grid:
        axes.grid(axis=grid, color="#dddddd", linewidth=0.6)


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """matplotlib's own defaults, whatever the user's settings, and what makes the SVG the same every time."""
    fixed: Any = {
        "svg.hashsalt": f"corral-{name}",
        "svg.fonttype": "none",
        "text.parse_math": False,
        "text.usetex": False,
        "font.size": 9.5,
        "font.family": ["sans-serif"],
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(fixed)
        yield


def finished_svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an `<svg>` element.

    Args:
        figure: as drawn.
        name: unique on the page; makes the ids of the SVG unique.
        description: the text alternative.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Escaped text has no "<", so that only real tags are rewritten: ids unique on the page, fewer digits, no links.
    text = re.sub(r"<[^>]*>", lambda tag: _tidy(tag.group(), name), text)
    size = re.match(r'<svg[^>]*viewBox="([^"]*)"', text)
    box = size.group(1) if size else "0 0 1 1"
    opening = f'<svg viewBox="{box}" role="img" aria-label="{escape(description)}">'
    return Markup(re.sub(r"\n\s*", "\n", re.sub(r"^<svg[^>]*>", lambda _: opening, text)).strip())


def svg_file(figure: Figure, name: str, description: str) -> str:
    """The same as a file of its own, with its namespace, on white ground whatever page shows it."""
    opening = '<svg xmlns="http://www.w3.org/2000/svg" style="background:#fff" '
    return f"{str(finished_svg(figure, name, description)).replace('<svg ', opening, 1)}\n"


def _tidy(tag: str, name: str) -> str:
    tag = tag.replace("xlink:href=", "href=")
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", tag)
