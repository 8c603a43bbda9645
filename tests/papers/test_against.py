"""Rows of a table compared with one of them, image by image."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from corral.documents import write_document
from corral.errors import CorralError
from corral.papers import Table, load_table, measure, reproduce, show
from corral.papers.against import against
from corral.papers.page import table_page
from corral.papers.result import Measured, Result, ResultPart, ResultRow, packed, read_result, unpacked
from corral.records import environment
from corral.report.table.markdown import as_markdown
from corral.report.table.page import render

TABLE = load_table("ncp-toward")
ROWS = [row.name for row in TABLE.rows]
REFERENCE = "corral, up the cross-entropy"


def measured(outcomes):
    return Measured(
        values=tuple(float(one.mean()) for one in outcomes), attack="x", kept=tuple(packed(one) for one in outcomes)
    )


def a_row(name, outcomes):
    seeds = tuple(range(len(outcomes)))
    return ResultRow(
        name=name, recipe="at", remark="", seeds=seeds, published={}, minutes=None,
        protocol={"Clean": measured(outcomes)}, sound={"1": measured(outcomes)}, train_seconds=(1.0,) * len(seeds),
        eps=0.1, norm="Linf", runs=("x",) * len(seeds), rule=None, created="now",
        environment=environment(torch.device("cpu")),
    )  # fmt: skip


def a_part(rows):
    n = 4 * len(rows[0].sound["1"].kept[0])  # four bits a digit: n is a multiple of 8 here
    return ResultPart(data="digits", beside="cifar10", n=n, n_test=n, classes=10, rows=tuple(rows))


def gap_and_error(cell):
    gap, error = cell.lstrip("▲▼ ").split(" ± ")
    return float(gap), float(error)


@given(arrays(bool, st.integers(1, 70)))
def test_images_survive_being_written(kept):
    assert unpacked(packed(kept), len(kept)).tolist() == kept.tolist()


@settings(deadline=None)  # the first example imports scipy, which takes more than the deadline on a busy machine
@given(arrays(bool, 40), arrays(bool, 40))
def test_one_seed_has_the_error_of_a_paired_count(first, second):
    # McNemar's: only b images kept by the first, c by the second; sqrt(b + c - (b - c)^2 / n) / n.
    found = against(TABLE, a_part([a_row(REFERENCE, [first]), a_row(ROWS[0], [second])]))
    b, c = int((second & ~first).sum()), int((first & ~second).sum())
    gap, error = gap_and_error(found.rows[0][1])
    assert gap == pytest.approx(100 * (b - c) / 40, abs=0.051)
    assert error == pytest.approx(100 * math.sqrt(b + c - (b - c) ** 2 / 40) / 40, abs=0.051)


def test_several_seeds_add_the_errors_of_both_means():
    rng = np.random.default_rng(0)
    first, second = (rng.random((3, 400)) < share for share in ([[0.3], [0.4], [0.5]], [[0.6], [0.61], [0.62]]))
    found = against(TABLE, a_part([a_row(ROWS[0], list(second)), a_row(REFERENCE, list(first))]))
    assert [row[0] for row in found.rows] == [ROWS[0]], "the reference is not compared with itself"
    gap = second.mean() - first.mean()
    images = (second.mean(0) - first.mean(0)).std() / 20
    seeds = [rows.mean(1).std(ddof=1) / math.sqrt(3) for rows in (first, second)]
    cell = found.rows[0][1]
    assert cell.startswith("▲ +")
    assert gap_and_error(cell) == pytest.approx((100 * gap, 100 * math.hypot(images, *seeds)), abs=0.051)


@pytest.mark.parametrize("spread", [0.0, 0.03, 0.2])  # the images' error alone, both, the seeds' nearly alone
def test_equals_are_seldom_marked(spread):
    rng = np.random.default_rng(1)
    marks, tries = 0, 400
    for _ in range(tries):
        hard = rng.beta(0.3, 2.5, size=400)
        shares = np.clip(hard + rng.normal(0, spread, (2, 3, 1)), 0, 1)
        ours, theirs = rng.random((2, 3, 400)) < shares
        found = against(TABLE, a_part([a_row(ROWS[0], list(ours)), a_row(REFERENCE, list(theirs))]))
        marks += found.rows[0][1][0] in "▲▼"
    assert marks <= tries / 20 + 3 * math.sqrt(tries / 20)


def test_what_is_not_known_image_by_image_is_a_dash_and_no_section():
    rng = np.random.default_rng(2)
    rows = [a_row(name, [rng.random(16) < 0.5]) for name in ROWS]
    bare = rows[0].model_copy(
        update={"protocol": {"Clean": Measured(values=rows[0].protocol["Clean"].values, attack="x")}}
    )
    found = against(TABLE, a_part([rows[1], bare]))
    by_name = dict(zip(found.columns, found.rows[0], strict=True))
    assert by_name["Clean"] == "–"
    assert by_name["worst PGD"] != "–"
    assert against(TABLE, a_part([rows[1]])) is None
    assert against(TABLE, a_part([rows[0], rows[2]])) is None, "the reference was not made"
    assert against(TABLE.model_copy(update={"against": None}), a_part(rows)) is None


def test_page_and_markdown_show_the_comparison():
    rng = np.random.default_rng(3)
    part = a_part([a_row(name, [rng.random(400) < share]) for name, share in zip(ROWS, (0.1, 0.5, 0.9), strict=True)])
    result = Result(table=TABLE.name, scale="smoke", parts=(part,))
    found = against(TABLE, part)
    assert [row[1][0] for row in found.rows] == ["▼", "▲"]
    assert "published numbers" not in as_markdown(table_page(TABLE, result)), "no row has one"
    for text in (as_markdown(table_page(TABLE, result)), render(table_page(TABLE, result))):
        assert f"Against {REFERENCE}" in text
        assert all(cell in text for row in found.rows for cell in row[1:])


@pytest.mark.parametrize("spoiled", ["00", "zz", "ffff", ""])
def test_images_that_contradict_the_accuracy_are_refused(spoiled, tmp_path):
    part = a_part([a_row(name, [np.array([True, False] * 8)]) for name in ROWS])
    write_document(Result(table=TABLE.name, scale="smoke", parts=(part,)), tmp_path / "table.json")
    assert read_result(tmp_path / "table.json").parts == (part,)
    content = json.loads((tmp_path / "table.json").read_text())
    content["parts"][0]["rows"][1]["sound"]["1"]["kept"] = [spoiled]
    (tmp_path / "table.json").write_text(json.dumps(content))
    with pytest.raises(CorralError, match="not a corral table") as caught:
        read_result(tmp_path / "table.json")
    assert "\n" not in str(caught.value)


def test_a_reference_that_is_no_row_is_refused():
    with pytest.raises(ValueError, match="against names no row: 'other'"):
        Table.model_validate({**TABLE.model_dump(), "against": "other"})


def test_rows_without_their_images_are_made_again_from_what_the_runs_keep(tmp_path, monkeypatch):
    where = {"runs": tmp_path / "runs", "results": tmp_path / "results", "device": "cpu", "progress": False}
    page = reproduce("ncp-toward", rows=ROWS[:2], **where)
    path = tmp_path / "results" / "attacks.csv"
    whole = path.read_bytes()
    assert f"Against {REFERENCE}" in page.read_text()
    lines = list(csv.DictReader(whole.decode().splitlines()))
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(line | {"outcomes": "", "digest": ""} for line in lines)
    assert f"Against {REFERENCE}" not in show("ncp-toward", results=tmp_path / "results").read_text()
    monkeypatch.setattr(measure, "evaluate", None)  # nothing is attacked again
    reproduce("ncp-toward", rows=ROWS[:2], **where)
    assert path.read_bytes() == whole
