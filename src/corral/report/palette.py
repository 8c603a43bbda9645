"""The colours of charts, on light and on dark ground, and the line styles of runs.

The palette: seven colours of runs, which begin from Okabe & Ito's, and ten of classes, from Paul Tol's "muted", moved
by a search until each has a contrast of 3:1 with its ground (WCAG 1.4.11) and any two are at least 25 apart in CIELAB,
for normal sight and for protanopes, deuteranopes and tritanopes as Machado et al. 2009 simulate them
(tests/report/test_palette.py). Runs have markers and dashes beside their colours, classes have names.
"""

from dataclasses import dataclass

GROUND = ("#ffffff", "#1d2126")
"""What charts stand on, light and dark: the page's --card."""

_RUN_COLOURS = (
    ("#0036B9", "#627AE3"), ("#DF6900", "#E66035"), ("#00774F", "#19FF91"), ("#BC569D", "#DD7398"),
    ("#2494FF", "#A1CCFD"), ("#673100", "#E7BF10"), ("#222222", "#E8EAED"),
)  # fmt: skip
_CLASS_COLOURS = (
    ("#5306BD", "#7E48FA"), ("#903F0F", "#DF9529"), ("#1F5963", "#31FCE1"), ("#04132A", "#737C3C"),
    ("#4D8BFB", "#9ACAFB"), ("#A79200", "#FFD70D"), ("#EC6869", "#DE4E87"), ("#491B12", "#AF3EA1"),
    ("#D26EB7", "#BC7DFF"), ("#79349C", "#B3C781"),
)  # fmt: skip
CLASS_COLOURS = tuple(light for light, _ in _CLASS_COLOURS)
"""What figures are drawn with; repeated beyond ten classes. A page shows the dark one of each on dark ground."""

AREAS = ("#dbe9f6", "#fdf0d5")
"""Two pale areas below points."""

TRACK = "#bbbbbb"
"""Bars and lines that only lead the eye."""

# Of figures as drawn: the page's variables in their place.
_SHARED = {"#000000": "text", "#ffffff": "card", "#dddddd": "line", "#cccccc": "line", "#444444": "soft"}
_SHARED |= {"#555555": "soft", "#999999": "soft", TRACK: "track", AREAS[0]: "area-0", AREAS[1]: "area-1"}
VARIABLES = {
    **_SHARED,
    **{light.lower(): f"run-{number}" for number, (light, _) in enumerate(_RUN_COLOURS)},
    **{light.lower(): f"class-{number}" for number, (light, _) in enumerate(_CLASS_COLOURS)},
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", ":", "-.")


def style_sheet() -> str:
    """The colours as variables of a page, those of dark ground where its reader's is dark."""
    grounds = [
        {f"run-{number}": pair[ground] for number, pair in enumerate(_RUN_COLOURS)}
        | {f"class-{number}": pair[ground] for number, pair in enumerate(_CLASS_COLOURS)}
        for ground in (0, 1)
    ]
    light = grounds[0] | {"track": TRACK, "area-0": AREAS[0], "area-1": AREAS[1]}
    dark = grounds[1] | {"track": "#5a626c", "area-0": "#1b3348", "area-1": "#46381a"}
    rules = [
        ":root { " + " ".join(f"--{name}: {colour};" for name, colour in one.items()) + " }" for one in (light, dark)
    ]
    return f"{rules[0]}\n@media (prefers-color-scheme: dark) {{\n{rules[1]}\n}}\n"


@dataclass(frozen=True)
class LineStyle:
    """How a run is drawn: colour, marker and dash, as matplotlib names them."""

    colour: str
    marker: str
    dash: str


def line_style(run: int) -> LineStyle:
    """The style of the run with this number: seven colours with seven markers, then the same with other dashes."""
    place = run % len(_RUN_COLOURS)
    return LineStyle(_RUN_COLOURS[place][0], _MARKERS[place], _DASHES[run // len(_RUN_COLOURS) % len(_DASHES)])


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
    style, colour = line_style(run), f"var(--run-{run % len(_RUN_COLOURS)})"
    return (
        f'<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true" style="fill: {colour}; stroke: {colour}">'
        f'<path d="M0 6h28" fill="none" stroke-width="2" stroke-dasharray="{_DASH_ARRAYS[style.dash]}"/>'
        f"{_SHAPES[style.marker]}</svg>"
    )


def class_dot(kind: int) -> str:
    """A dot in a class's colour, for legends; decoration only."""
    return f'<span class="dot" aria-hidden="true" style="background: var(--class-{kind % len(_CLASS_COLOURS)})"></span>'
