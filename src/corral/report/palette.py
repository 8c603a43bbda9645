"""Colours that colour-blind readers can tell apart, and the line styles of runs."""

from dataclasses import dataclass

CLASS_COLOURS = (
    "#332288", "#E08A1E", "#44AA99", "#117733", "#4FA3DC",
    "#C7A500", "#CC6677", "#882255", "#AA4499", "#777777",
)  # fmt: skip
"""After Paul Tol's "muted" scheme, its two palest replaced so that dots show on white; repeated beyond ten classes."""

_RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B5518C", "#56B4E9", "#B57B00", "#222222")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class LineStyle:
    """How a run is drawn: colour, marker and dash, as matplotlib names them."""

    colour: str
    marker: str
    dash: str


def line_style(run: int) -> LineStyle:
    """The style of the run with this number: seven colours with seven markers, then the same with other dashes."""
    place = run % len(_RUN_COLOURS)
    return LineStyle(_RUN_COLOURS[place], _MARKERS[place], _DASHES[run // len(_RUN_COLOURS) % len(_DASHES)])


_SHAPES = {
    "o": '<circle cx="14" cy="6" r="4"/>',
    "s": '<rect x="10.2" y="2.2" width="7.6" height="7.6"/>',
    "^": '<path d="M14 1.2 18.6 10H9.4z"/>',
    "D": '<path d="M14 1 19 6 14 11 9 6z"/>',
    "v": '<path d="M14 10.8 9.4 2h9.2z"/>',
    "P": '<path d="M12.4 1.6h3.2v2.8h2.8v3.2h-2.8v2.8h-3.2V7.6H9.6V4.4h2.8z"/>',
    "X": '<path d="M10 3.8 11.8 2 14 4.2 16.2 2 18 3.8 15.8 6 18 8.2 16.2 10 14 7.8 11.8 10 10 8.2 12.2 6z"/>',
}
_DASH_ARRAYS = {"-": "none", "--": "5 3", ":": "1.5 2", "-.": "5 2 1.5 2"}


def swatch(run: int) -> str:
    """A small SVG of a run's line and marker, for legends and tables; decoration only, hidden from screen readers."""
    style = line_style(run)
    return (
        f'<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true" fill="{style.colour}" stroke="{style.colour}">'
        f'<path d="M0 6h28" fill="none" stroke-width="2" stroke-dasharray="{_DASH_ARRAYS[style.dash]}"/>'
        f"{_SHAPES[style.marker]}</svg>"
    )
