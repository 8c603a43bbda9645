"""The page: what stands on it, that it needs nothing else, and that it is the same every time."""

import base64
import html
import io
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from corral.errors import UsageError
from corral.records import Curve, Record
from corral.report import report

WriteRun = Callable[..., Path]
MakeRecord = Callable[..., Record]
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags close in order, and collects tables, links and what else the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open or "script" in self.open:
            return
        self.text += data
        if self.open and ("td" in self.open or "th" in self.open):
            self.tables[-1][-1][-1] += data

    def named(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Page]:
    def make(*runs: Path) -> Page:
        parsed = Page(report(runs, out=tmp_path / "page.html").read_text())
        assert not parsed.open
        return parsed

    return make


def figures(text: str, kind: str) -> int:
    return len(re.findall(rf'<figure class="{kind}"[^>]*>\s*(?:<h4>.*?</h4>)?<div class="card"><svg', text, re.DOTALL))


def test_every_number_of_the_table_is_the_records(write_run: WriteRun, record: MakeRecord, page: Any) -> None:
    records = [
        record("a", {"pgd_published": 0.7125, "pgd_ce": 0.333}, clean=0.9875, train_seed=3, train_seconds=61.25),
        record("b", {"pgd_ce": 0.4444}, clean=0.91, head="linear", rule=None, method="at"),
    ]
    table = page(*(write_run(r) for r in records)).tables[0]
    assert table[0] == [
        "Run", "Lowest of these attacks", "Clean", "PGD as published", "PGD in log space", "n", "Seed", "Training",
        "Head", "Method", "Recipe",
    ]  # fmt: skip
    assert table[1] == [
        "a",
        "33.3",
        "98.8",
        "71.2",
        "33.3",
        "400",
        "3",
        "61.2 s",
        "cluster, soft",
        "corral",
        "a-recipe",
    ]
    assert table[2] == ["b", "44.4", "91.0", "–", "44.4", "400", "0", "12.2 s", "linear", "at", "b-recipe"]


def test_seeds_get_a_row_of_mean_and_sample_sd(write_run: WriteRun, record: MakeRecord, page: Any) -> None:
    # Lowest of each run: 40, 46, 43, although its mean is over different attacks.
    first, second = (0.50, 0.46, 0.60), (0.40, 0.66, 0.43)
    runs = [
        write_run(record(f"s{i}", {"pgd_ce": a, "other": b}, recipe="r", train_seed=i, clean=0.9))
        for i, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    table = page(*runs).tables[0]
    assert [row[0] for row in table[1:]] == ["s0", "s1", "s2", "r (3 seeds), mean\u00a0±\u00a0sd"]
    assert table[4][1:7] == ["43.0 ± 3.0", "90.0 ± 0.0", "52.0 ± 7.2", "49.7 ± 14.2", "400", "3 seeds"]


def test_a_worst_case_is_shown_only_where_it_was_measured(write_run: WriteRun, record: MakeRecord, page: Any) -> None:
    found = page(write_run(record("a", {"pgd_published": 0.7, "pgd_ce": 0.5, "worst_case": 0.45})))
    assert found.tables[0][0][1:5] == ["Worst case per image", "Clean", "PGD as published", "PGD in log space"]
    assert found.tables[0][1][1:5] == ["45.0", "98.0", "70.0", "50.0"]
    assert "Lowest of these attacks" not in found.text
    assert "not a worst case per image" in page(write_run(record("b"))).text


def test_per_class_accuracies_are_the_records(write_run: WriteRun, record: MakeRecord, page: Any) -> None:
    table = page(write_run(record("a"))).tables[2]
    assert table[0] == ["Class", "a, PGD in log space", "a, clean"]
    assert table[1:] == [
        ["zero", "40.0", "99.0"],
        ["one", "40.0", "97.0"],
        ["two", "–", "–"],
        ["three", "40.0", "96.0"],
    ]


def test_every_figure_is_there_with_its_text_alternative(
    write_run: WriteRun, record: MakeRecord, tmp_path: Path
) -> None:
    runs = [write_run(record("a")), write_run(record("b", head="linear", rule=None))]
    text = report(runs, out=tmp_path / "page.html").read_text()
    assert (figures(text, "claims"), figures(text, "curve"), figures(text, "features")) == (1, 1, 2)
    found = Page(text)
    drawn = [svg for svg in found.named("svg") if svg.get("role") == "img"]
    assert len(drawn) == 4
    assert all(svg["aria-label"] for svg in drawn)
    assert any("PGD in log space 40.0%" in (svg["aria-label"] or "") for svg in drawn)
    images = list(found.named("img"))
    assert len(images) == 2 * 3 * 4
    assert all(image["alt"] for image in images)
    assert "chance 25%" in text
    assert ", 0 predicted wrong" not in found.text
    assert "3 predicted wrong, 4 centroids." in found.text
    assert "no centroids (linear head)" in text


def test_images_are_the_arrays_pixels(write_run: WriteRun, record: MakeRecord, arrays: Any, page: Any) -> None:
    made = arrays()
    found = page(write_run(record("a"), made))
    uris = [image["src"] or "" for image in found.named("img")]
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))) for uri in uris]
    for i in range(4):
        np.testing.assert_array_equal(pixels[3 * i], made["images"][i, 0])
        np.testing.assert_array_equal(pixels[3 * i + 1], made["images_adversarial"][i, 0])
    alternatives = [image["alt"] for image in found.named("img")]
    assert alternatives[3:6] == [
        "Test image of class one, predicted one",
        "The same image after the attack, predicted two",
        "The difference of the two, times 1",
    ]


def test_a_difference_is_magnified_as_far_as_grey_allows_and_its_lengths_are_said(
    write_run: WriteRun, record: MakeRecord, arrays: Any, page: Any
) -> None:
    levels = np.random.default_rng(2).integers(60, 200, (4, 1, 8, 8), dtype=np.uint8)
    moved = levels.astype(np.float32) / 255
    moved[0, 0, 0, 0] += np.float32(0.09)
    moved[1] += np.float32(0.04)
    found = page(write_run(record("a"), arrays(images=levels, images_adversarial=moved)))
    uris = [image["src"] or "" for image in found.named("img")][2::3]
    drawn = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))) for uri in uris]
    # 5 is the largest factor with 5 * 0.09 <= 0.5.
    assert "difference × 5" in found.text
    assert abs(int(drawn[0][0, 0]) - 255 * (0.5 + 5 * 0.09)) <= 1
    assert np.all(np.abs(drawn[1].astype(int) - 255 * (0.5 + 5 * 0.04)) <= 1)
    assert set(np.unique(drawn[2])) == {128}
    assert "Linf 0.09L2 0.09" in found.text
    assert "Linf 0.04L2 0.32" in found.text
    assert "Linf 0L2 0" in found.text


def test_float_colour_images_are_rounded_to_grey_levels(
    write_run: WriteRun, record: MakeRecord, arrays: Any, page: Any
) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    made = arrays(images=levels, images_adversarial=levels.astype(np.float32) / 255)
    sources = [image["src"] for image in page(write_run(record("a"), made)).named("img")]
    assert sources[0::3] == sources[1::3]


def test_equal_records_give_equal_bytes(write_run: WriteRun, record: MakeRecord, tmp_path: Path) -> None:
    runs = [write_run(record("a")), write_run(record("b"))]
    first = report(runs, out=tmp_path / "1.html").read_bytes()
    assert report(runs, out=tmp_path / "2.html").read_bytes() == first


def test_the_page_needs_nothing_from_outside(write_run: WriteRun, record: MakeRecord, tmp_path: Path) -> None:
    text = report([write_run(record("a")), write_run(record("b"))], out=tmp_path / "page.html").read_text()
    found = Page(text)
    assert not re.search(r"https?:|[\"'(]//[a-z]|@import|<link|<iframe", text)
    assert "default-src 'none'" in text
    ids = [attributes["id"] for _, attributes in found.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in found.tags:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:image/png;base64,") or value[1:] in ids
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)


@pytest.mark.parametrize("side", [96, 200])
def test_ten_runs_stay_below_three_megabytes(
    write_run: WriteRun, record: MakeRecord, arrays: Any, tmp_path: Path, side: int
) -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(2000) % 4
    pictures = draw.integers(0, 256, (10, 3, side, side), dtype=np.uint8)
    made = arrays(
        features2d=draw.normal(size=(2000, 2)).astype(np.float32), features_labels=labels, features_predicted=labels,
        images=pictures, images_adversarial=pictures, images_labels=np.zeros(10, int),
        images_predicted=np.zeros(10, int), images_adversarial_predicted=np.ones(10, int),
    )  # fmt: skip
    runs = [write_run(record(f"r{i}"), made) for i in range(10)]
    path = report(runs, out=tmp_path / "page.html")
    assert path.stat().st_size < 3_000_000
    assert "The first 500 of 2,000 test images" in path.read_text()


HOSTILE = '<script>alert("x")</script>$\\frac{1}$ & {{ 7*7 }}'


def test_what_a_user_wrote_is_shown_not_run(
    write_run: WriteRun, record: MakeRecord, arrays: Any, tmp_path: Path
) -> None:
    hostile = record(
        HOSTILE, recipe=HOSTILE, method=HOSTILE, data=HOSTILE, notes=[HOSTILE], classes=[HOSTILE, "b", "c", "d"],
        curves=[Curve(attack=HOSTILE, norm="Linf", n=400, eps=[0.0, 0.1], accuracy=[0.9, 0.5])],
    )  # fmt: skip
    path = write_run(hostile, arrays(projection=np.array(HOSTILE)), folder="hostile")
    text = report([path], out=tmp_path / "page.html").read_text()
    found = Page(text)
    assert not found.open
    scripts = [one.get("id") or one["class"] for one in found.named("script")]
    assert scripts == ["filtered", "record", "page"]
    assert "<script>" not in text
    assert HOSTILE not in text
    assert found.tables[0][1][0] == HOSTILE
    assert found.tables[0][1][-1] == HOSTILE
    assert html.escape(HOSTILE, quote=False)[:20] in text


def test_reduced_evaluations_say_so(write_run: WriteRun, record: MakeRecord, page: Any) -> None:
    found = page(write_run(record("a", n_test=1000, reduced=True)), write_run(record("b", n_test=1000, reduced=True)))
    assert "Reduced: 400 of 1,000 test images (all runs)." in found.text
    assert "Reduced" not in page(write_run(record("c"))).text


def test_an_attack_on_fewer_images_says_so(write_run: WriteRun, record: MakeRecord, attack: Any, page: Any) -> None:
    changed = record("a").model_copy(update={"attacks": [attack("pgd_ce", 0.5, n=50)]})
    found = page(write_run(changed), write_run(record("b", {"pgd_ce": 0.5})))
    assert "Reduced: 50 of 400 test images, PGD in log space (a)." in found.text
    assert found.tables[0][1][1] == "50.0 (n = 50)"
    assert "compare that column with care" in found.text


def test_runs_at_another_threat_are_set_apart(write_run: WriteRun, record: MakeRecord, attack: Any, page: Any) -> None:
    other = record("b").model_copy(update={"eps": 8 / 255, "attacks": [attack("pgd_ce", 0.7, eps=8 / 255)]})
    found = page(write_run(record("a")), write_run(other))
    assert "numbers of different groups are not comparable" in found.text
    assert "digits, Linf eps 8/255, n = 400" in found.text
    assert "“a” is robust on 40.0%" in found.text
    assert "“b” is robust on 70.0%" in found.text


def test_a_second_eps_is_a_column_of_its_own(write_run: WriteRun, record: MakeRecord, attack: Any, page: Any) -> None:
    attacks = [attack("pgd_ce", 0.5), attack("pgd_ce", 0.25, eps=0.3)]
    found = page(write_run(record("a").model_copy(update={"attacks": attacks})))
    assert found.tables[0][0][1:5] == [
        "Lowest of these attacks", "Clean", "PGD in log space", "PGD in log space at Linf eps 0.3"
    ]  # fmt: skip
    assert found.tables[0][1][1:5] == ["50.0", "98.0", "50.0", "25.0"]


def test_how_it_was_measured_has_every_setting(write_run: WriteRun, record: MakeRecord, page: Any) -> None:
    found = page(write_run(record("a", notes=["augmented with nothing"])))
    for part in (
        "20 steps of size 2/255, 10 restarts", "5 restarts, maximising the cross-entropy of the logits",
        "d1d2d3", "model-of-a", "training 0, evaluation 7", "3.5 s", "2025-01-02T03:04:05Z", "cpu (x86_64), 2 threads",
        "torch 2.13.0", "Python 3.11.9", "augmented with nothing", "On 400 images, seed 7, 1.5 s a run.",
    ):  # fmt: skip
        assert part in found.text


def test_what_is_missing_is_said(write_run: WriteRun, record: MakeRecord, page: Any) -> None:
    found = page(write_run(record("a")))
    assert "upper bound on robust accuracy" in found.text
    assert "AutoAttack has not been run on any of these runs" in found.text
    found = page(write_run(record("b", {"autoattack": 0.4})))
    assert "AutoAttack has not been run" not in found.text
    found = page(write_run(record("a")), write_run(record("b", {"pgd_ce": 0.4, "autoattack": 0.4})))
    assert "AutoAttack has not been run on a;" in found.text


def test_a_curve_that_rises_is_not_trusted(write_run: WriteRun, record: MakeRecord, page: Any) -> None:
    rising = [Curve(attack="pgd_ce", norm="Linf", n=400, eps=[0.0, 0.1, 0.2], accuracy=[0.9, 0.3, 0.5])]
    assert "Here it rises for a: do not trust that curve." in page(write_run(record("a", curves=rising))).text
    assert "Here it rises" not in page(write_run(record("b"))).text


def test_runs_without_attacks_curves_or_images_still_make_a_page(
    write_run: WriteRun, record: MakeRecord, arrays: Any, page: Any
) -> None:
    none = np.zeros((0, 1, 8, 8), np.uint8)
    empty = np.zeros(0, np.int64)
    made = arrays(
        images=none, images_adversarial=none, images_labels=empty, images_predicted=empty,
        images_adversarial_predicted=empty,
    )  # fmt: skip
    found = page(write_run(record("a", {}, curves=[]), made))
    assert "Nothing to rank at Linf eps 0.2: no attack was run on this run." in found.text
    assert "No images were kept." in found.text
    assert "No attack was run." in found.text


def test_tables_have_scoped_headers(write_run: WriteRun, record: MakeRecord, page: Any) -> None:
    found = page(write_run(record("a")))
    assert {header.get("scope") for header in found.named("th")} == {"col", "row"}
    assert sum(1 for _ in found.named("caption")) == len(found.tables) == 7


def test_a_user_style_sheet_of_matplotlib_changes_nothing(
    write_run: WriteRun, record: MakeRecord, tmp_path: Path
) -> None:
    import matplotlib

    run = write_run(record("a"))
    first = report([run], out=tmp_path / "1.html").read_bytes()
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert report([run], out=tmp_path / "2.html").read_bytes() == first
        assert matplotlib.rcParams["lines.linewidth"] == 9


def test_no_run_is_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one run folder"):
        report([], out=tmp_path / "page.html")
