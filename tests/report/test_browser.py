"""Every page in headless Chromium: sorting, filters, downloads, values of charts, keyboard, accessibility, widths."""

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.browser import Browser, Tab, chromium
from tests.report.pages import ATTACKS, PAGES, write_pages

from corral.records import read_record

PROGRAM = chromium()
# `.ci/run` installs Chromium and says so here: there a missing one is a failure.
pytestmark = pytest.mark.skipif(
    PROGRAM is None and os.environ.get("CORRAL_BROWSER") != "required",
    reason="needs Chromium: apt-get install chromium, or CORRAL_CHROMIUM=/path/to/it",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None, "CORRAL_BROWSER=required, and there is no Chromium"
    started = Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every page."""
    base = tmp_path_factory.mktemp("pages")
    write_pages(base)
    return base


@pytest.fixture
def tab(browser: Browser, pages: Path) -> Iterator[Any]:
    """Opens a page by its name; afterwards nothing may have gone wrong on it."""
    opened: list[Tab] = []

    def open_page(name: str) -> Tab:
        opened.append(Tab(browser, pages / f"{name}.html"))
        return opened[-1]

    yield open_page
    for one in opened:
        assert one.troubles() == []
        one.close()


OPEN = "for (const one of document.querySelectorAll('details')) one.open = true"
CONTRASTS = Path(__file__).with_name("contrasts.js").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_on_a_phone_in_the_dark_and_by_a_screen_reader(tab: Any, name: str) -> None:
    page = tab(name)
    page.run(OPEN)
    for scheme in ("light", "dark"):
        page.scheme(scheme)
        assert page.run(CONTRASTS) == [], scheme
    for width, height in ((1280, 800), (390, 844)):
        page.size(width, height)
        assert page.run("document.documentElement.scrollWidth") == width
    nodes = page.nodes()
    headings = [node["level"] for node in nodes if node["role"] == "heading"]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(headings)), headings
    named = ("button", "link", "checkbox", "combobox", "searchbox", "image", "table", "region", "heading", "navigation")
    # The arrows of headings are for the eye.
    assert not [node["name"] for node in nodes if node["role"] == "button" and node["name"][-1] in "↕↑↓"]
    unnamed = [node["role"] for node in nodes if node["role"] in named and not node["name"].strip()]
    assert unnamed == []
    tables = page.run("document.querySelectorAll('table').length")
    assert sum(node["role"] == "table" for node in nodes) == tables > 0
    without = "[...document.querySelectorAll('tbody tr')].filter((row) => !row.querySelector('th[scope=row]')).length"
    assert page.run(without) == 0
    assert page.run("[...document.querySelectorAll('table')].every((t) => t.querySelector('th[scope=col]'))")
    links = "[...document.querySelectorAll('.contents a')].map((a) => document.querySelector(a.hash) !== null)"
    assert page.run(links) == [True] * page.run("document.querySelectorAll('.contents a').length")
    assert {"main", "navigation"} <= {node["role"] for node in nodes}


@pytest.mark.parametrize("name", PAGES)
def test_no_sentence_stands_there_three_times_and_the_verdict_has_at_most_three_lines(tab: Any, name: str) -> None:
    page = tab(name)
    height = "p.getBoundingClientRect().height / parseFloat(getComputedStyle(p).lineHeight)"
    lines = page.run(f"[...document.querySelectorAll('.verdict p')].map((p) => Math.round({height}))")
    assert sum(lines) <= (1 if name == "vacuous" else 3)
    page.run(OPEN)
    parts = "main p, main li:not(.pictures *), main dd, figure:not(.features) figcaption"
    words = page.run(f"[...document.querySelectorAll('{parts}')].map((e) => e.textContent)")
    sentences = [one.strip() for text in words for one in re.split(r"(?<=[.;!?])\s+", text) if len(one.split()) > 5]
    assert [one for one in set(sentences) if sentences.count(one) > 2] == []


def test_the_worst_case_is_on_the_first_screen_of_a_phone(tab: Any) -> None:
    page = tab("report")
    page.size(390, 844)
    heading, cell = "thead th:nth-child(2)", "tbody tr:first-child td"
    assert page.run(f"document.querySelector('{heading}').textContent").startswith("Worst case per image")
    for part in (heading, cell):
        box = page.run(f"(() => {{ const b = document.querySelector('{part}').getBoundingClientRect(); "
                       "return [b.left, b.right, b.bottom]; })()")  # fmt: skip
        assert box[0] >= 0
        assert box[1] <= 390
        assert box[2] <= 844


def rows(page: Tab, table: str, column: int = 0) -> list[str]:
    script = f"""[...document.querySelector('[data-name="{table}"]').tBodies[0].rows].filter((r) => !r.hidden)
        .map((r) => r.cells[{column}].textContent.trim())"""
    found: list[str] = page.run(script)
    return found


def press_header(page: Tab, table: str, column: int) -> str | None:
    row = f"""document.querySelector('[data-name="{table}"] thead tr:last-child')"""
    script = f"""(() => {{ const h = {row}.cells[{column}];
        h.querySelector("button").click(); return h.getAttribute("aria-sort"); }})()"""
    found: str | None = page.run(script)
    return found


def test_a_table_is_sorted_by_a_press_on_a_heading(tab: Any) -> None:
    page = tab("report")
    given = ["nominal", "clusters", "at"]
    assert rows(page, "g0-runs") == given
    assert press_header(page, "g0-runs", 1) == "descending"
    assert rows(page, "g0-runs") == ["at", "nominal", "clusters"]
    assert press_header(page, "g0-runs", 1) == "ascending"
    assert rows(page, "g0-runs") == ["clusters", "nominal", "at"]
    assert press_header(page, "g0-runs", 1) is None
    assert rows(page, "g0-runs") == given
    assert press_header(page, "g0-runs", 0) == "ascending"
    assert rows(page, "g0-runs") == sorted(given)
    # What is a dash is last, whichever way.
    page = tab("table")
    for direction in ("descending", "ascending"):
        assert press_header(page, "mnist-cifar-10", 1) == direction
        assert rows(page, "mnist-cifar-10", 1) == ["87.3", "–"]


def test_the_keyboard_sorts_filters_and_reads_a_chart(tab: Any) -> None:
    page = tab("report")
    for _ in range(40):
        page.press("Tab")
        if page.run("document.activeElement.matches('[data-name=g0-runs] th:nth-child(2) button')"):
            break
    assert page.run("document.activeElement.className") == "sort"
    page.press("Enter")
    assert rows(page, "g0-runs") == ["at", "nominal", "clusters"]
    page.run("document.querySelector('figure.curve svg').focus()")
    for _ in range(3):
        page.press("ArrowRight")
    assert page.run("document.querySelector('.tip').textContent") == "nominal: eps 0.2, accuracy 40.0%"
    assert not page.run("document.querySelector('.tip').hidden")
    page.press("Escape")
    assert page.run("document.querySelector('.tip').hidden")


def test_a_chart_says_its_values_beside_the_pointer(tab: Any) -> None:
    page = tab("report")
    # The mark of each run's worst case is where its number is on the axis.
    marks = json.loads(page.run("document.querySelector('figure.claims svg').dataset.marks"))
    wanted = {f"Worst case per image: {name}, accuracy {100 * a['worst_case']:.1f}%" for name, a in ATTACKS.items()}
    assert wanted <= set(marks["texts"])
    page.run("document.querySelector('figure.claims').scrollIntoView()")
    for mark in marks["marks"]:
        if not marks["texts"][mark[2]].startswith("clean"):
            continue
        x, y = page.run(
            f"(() => {{ const p = new DOMPoint({mark[0]}, {mark[1]}).matrixTransform("
            "document.querySelector('figure.claims svg').getScreenCTM()); return [p.x, p.y]; })()"
        )
        page.point(x + 2, y - 1)
        assert page.run("document.querySelector('.tip').textContent") == marks["texts"][mark[2]]
    page.point(5, 5)
    assert page.run("document.querySelector('.tip').hidden")


def test_runs_and_classes_are_filtered_everywhere(tab: Any) -> None:
    page = tab("report")
    seen = "[...document.querySelectorAll('main [data-run~=\"1\"]')].filter((e) => !e.hasAttribute('hidden')).length"
    assert page.run(seen) > 8
    page.run("[...document.querySelectorAll('.filters input')][1].click()")
    # A mean over seeds, of several runs, would stay; here every element is of one.
    assert page.run(seen) == 0
    assert rows(page, "g0-runs") == ["nominal", "at"]
    shown = "[...document.querySelectorAll('[data-name=g0-classes] thead th')].filter((e) => !e.hidden).length"
    assert page.run(shown) == 1 + 2 * 2
    assert page.run("[...document.querySelector('[data-name=g0-classes]').tBodies[0].rows[0].cells]"
                    ".filter((e) => !e.hidden).length") == 1 + 2 * 2  # fmt: skip
    page.run("(() => { const s = document.querySelector('.filters select'); s.value = '2'; "
             "s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert rows(page, "g0-classes") == ["two"]
    labels = "[...document.querySelectorAll('figure.claims svg [data-run] text')].map((e) => e.textContent)"
    assert page.run(labels) == list(ATTACKS)
    assert page.run(labels.replace("[data-run]", "[data-run]:not([hidden])")) == ["nominal", "at"]
    images = "[...document.querySelectorAll('.pictures li')].filter((e) => e.offsetParent).map((e) => e.dataset.class)"
    assert page.run(images) == ["2", "2"]
    page.run("document.querySelector('.filters button').click()")
    assert rows(page, "g0-runs") == ["nominal", "clusters", "at"]


FILTER = (
    """(() => { const f = document.querySelector('%s'); f.value = '%s'; f.dispatchEvent(new Event('input')); })()"""
)


def test_downloads_are_the_rows_as_they_are_shown_and_the_records_as_they_were(
    tab: Any, pages: Path, tmp_path: Path
) -> None:
    page = tab("report")
    press_header(page, "g0-runs", 1)
    page.run("[...document.querySelectorAll('.filters input')][0].click()")
    buttons = "[...document.querySelectorAll('#g0-runs > .tools button')]"
    found = list(csv.reader(io.StringIO(page.download(f"{buttons}[0].click()", tmp_path))))
    assert found[0][:4] == ["Run", "Worst case per image", "Clean", "PGD as published"]
    # Exact numbers in percent, where the page rounds.
    assert [line[:4] for line in found[1:]] == [["at", "46", "98", "50"], ["clusters", "4.25", "98", "74.4"]]
    objects = json.loads(page.download(f"{buttons}[1].click()", tmp_path))
    assert [one["Run"] for one in objects] == ["at", "clusters"]
    assert objects[1]["Worst case per image"] == "4.25"
    content = page.download("document.querySelector('.records button:nth-of-type(2)').click()", tmp_path)
    (tmp_path / "record.json").write_text(content)
    assert read_record(tmp_path / "record.json") == read_record(pages / "clusters" / "records" / "quick.json")


def test_rows_are_filtered_by_their_text(tab: Any) -> None:
    page = tab("audit")
    page.run(OPEN)
    page.run(FILTER % ('[aria-label^="Filter rows: All checks"]'.replace('"', '\\"'), "NOT MEASURED"))
    assert rows(page, "checks") == ["Title of slow"]
    assert page.run("document.querySelector('[data-name=checks]').parentElement.previousElementSibling"
                    ".querySelector('output').textContent") == "1 of 4 rows"  # fmt: skip


def test_published_numbers_of_another_data_set_say_so_and_no_name_is_cut(tab: Any) -> None:
    page = tab("table")
    headings = page.run("[...document.querySelectorAll('[data-name=mnist-cifar-10] thead tr:last-child th')]"
                        ".map((e) => e.textContent)")  # fmt: skip
    assert headings[1:3] == ["Clean, published on CIFAR-10", "Clean, ours"]
    drawn = " ".join(page.run("[...document.querySelectorAll('figure.overview svg text')].map((e) => e.textContent)"))
    assert "a method whose name is much longer than twenty-six characters" in " ".join(drawn.split())
    assert "…" not in page.run("document.body.textContent")


def test_charts_are_dark_in_the_dark(tab: Any) -> None:
    page = tab("report")
    marks = "getComputedStyle(document.querySelector('figure.curve svg [data-run=\"0\"] path')).stroke"
    text = "getComputedStyle(document.querySelector('figure.curve svg text')).fill"
    light = page.run(f"[{marks}, {text}]")
    page.scheme("dark")
    dark = page.run(f"[{marks}, {text}]")
    assert light == ["rgb(0, 54, 185)", "rgb(28, 31, 35)"]
    assert dark == ["rgb(98, 122, 227)", "rgb(232, 234, 237)"]


def test_the_embedding_has_a_legend_of_its_classes(tab: Any) -> None:
    page = tab("analysis")
    legend = page.run("[...document.querySelectorAll('#embedding svg [id*=legend] text')].map((e) => e.textContent)")
    assert legend == ["zero", "one", "two"]
    marks = json.loads(page.run("document.querySelector('#embedding svg').dataset.marks"))
    assert {"true zero, clean", "predicted two, attacked"} <= set(marks["texts"])


def test_the_findings_that_matter_are_open(tab: Any) -> None:
    page = tab("audit")
    found = page.run(
        "[...document.querySelectorAll('article details')].map((e) => [e.open, e.parentElement.className])"
    )
    assert found == [[True, "finding note"], [True, "finding skipped"], [False, "finding ok"], [False, "finding ok"]]


def test_a_page_without_scripts_is_a_page(browser: Browser, pages: Path) -> None:
    page = Tab(browser, pages / "report.html")
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.call("Page.reload")
    browser.wait("Page.loadEventFired", page.session)
    nodes = page.nodes()
    assert sum(node["role"] == "table" for node in nodes) >= 2
    assert not [node for node in nodes if node["role"] in ("button", "searchbox", "checkbox")]
    page.close()
