"""What a matplotlib figure shows, value by value: read off its lines, points and bars, an outsider's figure's too."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryLocator
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter
from numpy.typing import NDArray

from corral.terminal import eps_words

# Of a longer series these many values, evenly; and so many rows of a table, above which points are counted by series.
MOST_OF_A_SERIES, MOST_ROWS = 200, 400


@dataclass(frozen=True)
class Mark:
    """One value that a figure shows.

    Attributes:
        series: what the label of its line or points says; empty where they have none.
        values: names and values of its coordinates, of those that have a scale.
        x: where it is, in the units of the SVG's viewBox.
        y: likewise, from the top.
        run: the numbers of the runs that it is of, as the page's filters have them, or None.
        kind: the number of its class, or None.
        thinned: of how many values of its series it is one, where not all are there.
    """

    series: str
    values: tuple[tuple[str, str], ...]
    x: float
    y: float
    run: str | None = None
    kind: str | None = None
    thinned: int = 0

    @property
    def words(self) -> str:
        """The mark in words."""
        values = ", ".join(
            f"{name.removesuffix(', %')} {value}{'%' * name.endswith(', %')}".strip() for name, value in self.values
        )
        return f"{self.series}: {values}" if self.series and values else self.series or values


def marks_of(figure: Figure) -> list[Mark]:
    """The values of a figure that was drawn: of its labelled lines, points and bars, else of all of them.

    Lines that are not in the data's coordinates, such as those of `axhline`, are none.
    """
    height = figure.get_figheight() * 72
    found = []
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        series = [one for one in _series(axes) if len(one.points)]
        labelled = [one for one in series if one.label]
        for one in labelled or series:
            places = one.transform.transform(one.points) / figure.dpi * 72
            chosen = np.unique(np.linspace(0, len(places) - 1, min(len(places), MOST_OF_A_SERIES)).round().astype(int))
            left_out = len(places) if len(chosen) < len(places) else 0
            found += [
                Mark(
                    series=one.label,
                    values=tuple(_values(axes, *one.points[i])),
                    x=float(places[i, 0]),
                    y=float(height - places[i, 1]),
                    run=_part(one.gid, "run"),
                    kind=_part(one.gid, "class"),
                    thinned=left_out,
                )
                for i in chosen.tolist()
                if np.isfinite(places[i]).all()
            ]
    return found


def values_table(marks: list[Mark]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], str]:
    """Headings, rows and a note: the values, or, of points without a scale or of very many, their number by series."""
    names = list(dict.fromkeys(name for mark in marks for name, _ in mark.values))
    if not names or len(marks) > MOST_ROWS:
        counted = Counter(mark.series for mark in marks)
        return ("Points", "Number"), tuple((series or "all", f"{count:,}") for series, count in counted.items()), ""
    several = any(mark.series for mark in marks)
    # Axes without a name are told apart by their place, those of panels that differ by their name.
    alike = len({tuple(name for name, _ in mark.values) for mark in marks}) == 1
    names = [name for name, _ in marks[0].values] if alike else names
    rows = tuple(
        ((mark.series,) if several else ())
        + tuple(
            mark.values[place][1] if alike else dict(mark.values).get(name, "–") for place, name in enumerate(names)
        )
        for mark in marks
    )
    note = ", evenly chosen from longer series" if any(mark.thinned for mark in marks) else ""
    columns = tuple(name or ("Row" if place == 0 else "Value") for place, name in enumerate(names))
    return (("Series",) if several else ()) + columns, rows, note


@dataclass(frozen=True)
class _Series:
    label: str
    points: NDArray[np.float64]
    transform: Any
    gid: str | None


def _series(axes: Axes) -> Iterator[_Series]:
    bars = [one for one in axes.containers if isinstance(one, BarContainer)]
    errors = {id(one.lines[0]): one for one in axes.containers if isinstance(one, ErrorbarContainer)}
    for line in axes.lines:
        if line.get_transform() == axes.transData:
            label = errors[id(line)].get_label() if id(line) in errors else line.get_label()
            points = np.column_stack([np.asarray(line.get_xdata(orig=False), float), line.get_ydata(orig=False)])
            yield _Series(_known(label), points, axes.transData, line.get_gid())
    for dots in axes.collections:
        if isinstance(dots, PathCollection):
            offsets = np.ma.getdata(dots.get_offsets()).astype(float).reshape(-1, 2)
            yield _Series(_known(dots.get_label()), offsets, axes.transData, dots.get_gid())
    for bar in bars:
        across = bar.orientation == "horizontal"
        ends = [
            (one.get_x() + one.get_width(), one.get_y() + one.get_height() / 2)
            if across
            else (one.get_x() + one.get_width() / 2, one.get_y() + one.get_height())
            for one in bar.patches
        ]
        yield _Series(_known(bar.get_label()), np.asarray(ends, float).reshape(-1, 2), axes.transData, None)


def _known(label: object) -> str:
    """A label that matplotlib did not make up."""
    return "" if str(label).startswith("_") else str(label)


def _part(gid: str | None, kind: str) -> str | None:
    found = re.fullmatch(rf"{kind}:([\d ]+)", gid or "")
    return found[1] if found else None


def _values(axes: Axes, x: float, y: float) -> Iterator[tuple[str, str]]:
    """What the coordinates of a point say: the name of a row first, nothing of an axis without ticks."""
    pairs = [(axes.xaxis, x), (axes.yaxis, y)]
    for axis, value in sorted(pairs, key=lambda pair: _names(pair[0]) is None):
        if len(axis.get_majorticklocs()):
            yield _value(axis, value)


def _value(axis: Axis, value: float) -> tuple[str, str]:
    words = axis.get_label_text()
    name = re.split(r"[,(]", words)[0].strip()
    if (named := _names(axis)) is not None:
        return name, " ".join(named[min(named, key=lambda place: abs(place - value))].split())
    if name in ("eps", "l2 radius"):
        return name, eps_words(value)
    return (f"{name}, %", f"{value:.1f}") if "%" in words else (name, f"{value:.4g}")


def _names(axis: Axis) -> dict[float, str] | None:
    """The words at an axis's places, where it has words and no scale."""
    locator, formatter = axis.get_major_locator(), axis.get_major_formatter()
    worded = isinstance(locator, FixedLocator) and isinstance(formatter, FixedFormatter | FuncFormatter)
    if not worded and not isinstance(locator, StrCategoryLocator):
        return None
    places = axis.get_majorticklocs()
    return dict(zip(map(float, places), formatter.format_ticks(list(places)), strict=True))
