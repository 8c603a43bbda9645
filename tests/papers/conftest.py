"""A table made at smoke scale, and what must be true of every one."""

import re

import pytest
from markupsafe import escape

from corral.papers import load_table, reproduce
from corral.papers.jobs import jobs_of, waves
from corral.papers.make import set_up
from corral.papers.page import SHOWN, groups
from corral.papers.result import read_result
from corral.training import load_model, load_recipe

ON_CENTRES = ("pgd_50_length_10", "pgd_50_length_3", "pgd_50_length_1", "pgd_50_cosine")


def assert_whole(name, base):
    """Make a table, its runs shared with those made in the same folder before."""
    table = load_table(name)
    page = reproduce(name, runs=base / "runs", results=base / "results", device="cpu", progress=False)
    result = read_result(page.with_name("table.json"))
    assert [part.data for part in result.parts] == [part.data for part in table.scales["smoke"]]
    markdown, html = page.with_name("table.md").read_text(), page.read_text()
    for part, meant in zip(result.parts, table.scales["smoke"], strict=True):
        rows = [row for row in table.rows if row.has(part.data)]
        assert [row.name for row in part.rows] == [row.name for row in rows]
        for row, definition in zip(part.rows, rows, strict=True):
            assert tuple(row.analyses) == definition.analyses
            measured = {column.name for column in table.columns if column.attack != "pgd_published_100"}
            if "paper" not in meant.protocols:
                measured -= {column.name for column in table.columns if "100" in column.attack}
            if "standard" not in meant.protocols:
                measured -= {column.name for column in table.columns if column.attack == "autoattack"}
            # What attacks centres of equal length is there for exactly the methods that have such.
            centred = {column.name for column in table.columns if column.attack in ON_CENTRES}
            if not hasattr(load_recipe(row.recipe).method, "centres"):
                measured -= centred
                assert not centred & row.protocol.keys()
                assert not centred or re.search(rf"\| {re.escape(row.name)} \|.*\| – \| – \| – \|", markdown)
            assert measured <= row.protocol.keys()
            assert len(row.fingerprints) == len(row.seeds)
            if definition.stages:  # what came before the head is by far the longest
                (seconds,) = row.train_seconds
                (own,) = (load_model(base / "runs" / "smoke" / run)[2].train_seconds for run in row.runs)
                assert seconds > own
            assert f"| {row.name} |" in markdown
            assert f'<th scope="row">{escape(row.name)}</th>' in html
            # A table without an attack among its columns has no column of what is left under a sound one.
            shown = [row.sound[group.factor] for group in groups(table, part) if group.sound]
            digits = {column.name: SHOWN[column.unit][1] for column in table.columns}
            percent = {column.name for column in table.columns if column.unit == "%"}
            accuracies = [numbers for name, numbers in row.protocol.items() if name in percent]
            for numbers in (*accuracies, *shown):
                assert f"{100 * numbers.values[0]:.1f}" in markdown
            for name in row.protocol.keys() - percent:
                assert f"{row.protocol[name].values[0]:.{digits[name]}f}" in markdown
    assert read_result(page.with_name("table.json")) == result
    setup = set_up(table.name, scale="smoke", runs=base / "runs")
    assert set(waves(setup, jobs_of(setup)).values()) == {0}, "a plan has nothing left to make"


@pytest.fixture(scope="module")
def made_whole(tmp_path_factory):
    base = tmp_path_factory.mktemp("shared")
    return lambda name: assert_whole(name, base)
