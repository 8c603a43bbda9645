"""What a figure shows, read off it: the place of every mark in the SVG, and its values in words and as a table."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from matplotlib.figure import Figure

from corral.report.marks import MOST_OF_A_SERIES, marks_of
from corral.report.svg import PageFigure, drawing, finished_svg, new_figure, page_figure


def drawn(draw: Any) -> tuple[Figure, PageFigure]:
    with drawing("f"):
        figure, axes = new_figure(4, 3)
        draw(axes)
        return figure, page_figure(figure, "f", "a figure")


def for_pointer(shown: PageFigure) -> dict[str, Any]:
    """The marks as a browser reads the attribute."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name == "data-marks")

    Reader().feed(str(shown.svg))
    marks: dict[str, Any] = json.loads(found[0])
    return marks


def test_marks_are_where_the_svg_draws_them_and_say_what_the_axes_say() -> None:
    def draw(axes: Any) -> None:
        axes.plot([0.0, 8 / 255, 0.1], [98.0, 60.5, 12.0], marker="o", label="it's <b> & c", gid="run:3")
        axes.set(xlabel="eps (Linf, pixels in [0, 1])", ylabel="accuracy, %")
        axes.axhline(10)

    figure, shown = drawn(draw)
    uses = re.findall(
        r'<use href="#f-m[^"]*" x="([\d.]+)" y="([\d.]+)"(?! style="stroke: #000000)',
        str(finished_svg(figure, "f", "")),
    )
    places = [(float(x), float(y)) for x, y in uses]
    marks = for_pointer(shown)
    assert [mark[3:] for mark in marks["marks"]] == [["3", None]] * 3
    for mark in marks["marks"]:
        assert any(abs(mark[0] - x) <= 0.1 and abs(mark[1] - y) <= 0.1 for x, y in places)
    assert marks["texts"][1] == "it's <b> & c: eps 8/255, accuracy 60.5%"
    assert shown.columns == ("Series", "eps", "accuracy, %")
    assert shown.rows[2] == ("it's <b> & c", "0.1", "12.0")
    assert 'data-run="3"' in shown.svg
    assert "#000000" not in shown.svg
    assert "font-family" not in shown.svg


def test_rows_with_names_bars_and_a_logarithmic_axis() -> None:
    def bars(axes: Any) -> None:
        axes.barh([0, 1], [99.6, 48.2])
        axes.set_yticks([0, 1], ["clean", "DDN"])
        axes.set(xlabel="images, %")

    _, shown = drawn(bars)
    assert for_pointer(shown)["texts"] == ["clean, images 99.6%", "DDN, images 48.2%"]
    assert shown.rows == (("clean", "99.6"), ("DDN", "48.2"))
    _, shown = drawn(lambda axes: axes.bar(["a", "b"], [0.25, 0.5]))
    assert for_pointer(shown)["texts"] == ["a, 0.25", "b, 0.5"]

    def logarithmic(axes: Any) -> None:
        axes.plot([1, 2], [1e-8, 1e-3])
        axes.set(yscale="log", xlabel="step", ylabel="norm")

    figure, shown = drawn(logarithmic)
    assert for_pointer(shown)["texts"] == ["step 1, norm 1e-08", "step 2, norm 0.001"]
    first, second = marks_of(figure)
    assert 0 < second.y < first.y < 3 * 72


def test_error_bars_have_one_mark_each_and_points_without_a_scale_are_counted() -> None:
    def errors(axes: Any) -> None:
        axes.errorbar([0, 1], [0.5, 0.6], [0.1, 0.1], label="clean", linestyle="none", marker="o")
        axes.set(xlabel="x", ylabel="cosine")

    _, shown = drawn(errors)
    assert for_pointer(shown)["texts"] == ["clean: x 0, cosine 0.5", "clean: x 1, cosine 0.6"]

    def points(axes: Any) -> None:
        axes.scatter([0, 1, 2], [0, 1, 2], label="zero", gid="class:0")
        axes.scatter([3], [3], label="one", gid="class:1")
        axes.set(xticks=[], yticks=[])

    _, shown = drawn(points)
    assert shown.rows == (("zero", "3"), ("one", "1"))
    assert [mark[4] for mark in for_pointer(shown)["marks"]] == ["0", "0", "0", "1"]


@pytest.mark.parametrize("count", [MOST_OF_A_SERIES, 5 * MOST_OF_A_SERIES])
def test_a_long_series_is_thinned_with_its_ends_and_says_so(count: int) -> None:
    _, shown = drawn(lambda axes: axes.plot(range(count), range(1, count + 1)))
    assert len(shown.rows) == MOST_OF_A_SERIES
    assert (shown.rows[0], shown.rows[-1]) == (("0", "1"), (str(count - 1), str(count)))
    assert bool(shown.note) == (count > MOST_OF_A_SERIES)
