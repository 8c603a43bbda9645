"""matplotlib figures as inline SVG without links; matplotlib is imported with this file, so import it only to draw.

No JavaScript library draws the charts. What would have to be inlined, minified as npm has it, in bytes: uPlot 1.6.32
51,081; Chart.js 4.6.1 210,082; Observable Plot 0.6.17 with d3 7.9.2 489,805; Vega 6.4.0 with Vega-Lite 6.4.3 771,968;
ECharts 6.1.0 1,121,883; Plotly basic 4.1.1 1,191,749. A page of 3 MB has room for the first two, but they draw on a
canvas: no chart without scripts, no text of a chart for search, screen readers or the page's style sheet. uPlot knows
neither rows with names nor points by class. Figures that outsiders register are matplotlib's, so a page would have two
engines. SVG takes the page's colours by CSS, and `scripts/charts.js`, 2.5 kB, shows its values.
"""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from corral.report.marks import Mark, marks_of, values_table
from corral.report.palette import VARIABLES

# So many inches, and a figure does not stand beside another one.
BROAD = 6.5


@dataclass(frozen=True)
class PageFigure:
    """A figure as it stands on a page: its SVG, and what it shows as a table.

    Attributes:
        svg: with the page's colours, and its values for the pointer and the arrow keys.
        name: unique on the page.
        description: the text alternative.
        columns: headings of the table.
        rows: its cells; none where a figure shows no values.
        note: behind the table's title, where it has not all of them; begins with a comma.
        broad: so wide that it stands alone in its row.
    """

    svg: Markup
    name: str
    description: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    note: str = ""
    broad: bool = False


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


def page_figure(figure: Figure, name: str, description: str) -> PageFigure:
    """The figure for a page; `name` is unique there, `description` the text alternative.

    What is drawn for a run has the gid "run:3", for several "run:3 4", for a class "class:3": the page's filters
    hide it.
    """
    svg = str(finished_svg(figure, name, description))
    marks = marks_of(figure)
    svg = re.sub(r'<[^>]* style="[^"]*"[^>]*>', lambda tag: _themed(tag.group()), svg)
    svg = re.sub(rf' id="{re.escape(name)}-(run|class):([\d ]+)"', r' data-\1="\2"', svg)
    if marks:
        svg = svg.replace("<svg ", f"<svg data-marks='{_for_pointer(marks)}' ", 1)
    columns, rows, note = values_table(marks)
    broad = figure.get_figwidth() >= BROAD
    return PageFigure(Markup(svg), name, description, columns, rows, note, broad)


def finished_svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an `<svg>` element with the colours as drawn.

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
    text = re.sub(r"\n\s*", "\n", re.sub(r"^<svg[^>]*>", lambda _: opening, text)).strip()
    return Markup(_SAME_STYLE.sub(_once, text))


# Marks of one series: their common style is written once, on their group, from where it is inherited.
_SAME_STYLE = re.compile(r'<g([^>]*)>\n((?:<use [^>]*? style="([^"]*)"/>\n)(?:<use [^>]*? style="\3"/>\n)+)</g>')


def _once(found: re.Match[str]) -> str:
    attributes, marks, style = found.groups()
    own = f' style="{style}"'
    return f"<g{attributes}{own}>\n{marks.replace(own, '')}</g>"


def svg_file(figure: Figure, name: str, description: str) -> str:
    """The same as a file of its own, with its namespace, on white ground whatever page shows it."""
    opening = '<svg xmlns="http://www.w3.org/2000/svg" style="background:#fff" '
    return f"{str(finished_svg(figure, name, description)).replace('<svg ', opening, 1)}\n"


def _tidy(tag: str, name: str) -> str:
    tag = tag.replace("xlink:href=", "href=")
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", tag)


def _themed(tag: str) -> str:
    """The page's variables in the place of the colours that it knows, and its own letters."""
    tag = re.sub(r"font-family: [^;\"]*; ", "", tag)
    return re.sub(
        r"#[0-9a-f]{6}\b", lambda found: f"var(--{VARIABLES[found[0]]})" if found[0] in VARIABLES else found[0], tag
    )


def _for_pointer(marks: list[Mark]) -> str:
    """The marks as JSON for an attribute in single quotes: the texts, each once, then place and text of each mark."""
    texts = list(dict.fromkeys(mark.words for mark in marks))
    places = {words: place for place, words in enumerate(texts)}
    listed = [[round(mark.x, 1), round(mark.y, 1), places[mark.words], mark.run, mark.kind] for mark in marks]
    return escape(
        json.dumps({"texts": texts, "marks": listed}, separators=(",", ":"), ensure_ascii=False), quote=False
    ).replace("'", "&#39;")
