"""What tables say of training: seconds of one clock a column, and epochs to convergence."""

import pytest
import torch
from pydantic import ValidationError

from corral.checkpoints import read_checkpoint, write_checkpoint
from corral.papers import assemble, load_table, measure, reproduce
from corral.papers.entries import Trained, run_line
from corral.papers.page import table_page
from corral.papers.plan import RunPlan
from corral.papers.result import Measured, Result, ResultPart, ResultRow, read_result
from corral.papers.times import training_cells, training_headings, training_words
from corral.records import Record, environment
from corral.report.table.markdown import as_markdown
from corral.report.table.page import render
from corral.training import Run, RunInfo, load_model
from corral.training.convergence import Ending

TABLE = load_table("clustr-convergence")
WITHOUT = ("Free AT", "TRADES", "QTRADES", "Magnet Loss", "ours: Magnet Loss in log space")


def a_row(name, *, minutes=None, **more):
    measured = Measured(values=(0.5, 0.5), attack="x")
    given = {"train_seconds": (10.0, 20.0), "work_seconds": (4.0, 5.0), "work_clock": "cpu"} | more
    return ResultRow(
        name=name, recipe="at", remark="", seeds=(0, 1), published={}, minutes=minutes, protocol={"Natural": measured},
        sound={"1": measured}, eps=0.1, norm="Linf", runs=("x", "y"), rule=None, created="now",
        environment=environment(torch.device("cpu")), **given,
    )  # fmt: skip


def a_part(*rows):
    return ResultPart(data="digits", beside="cifar10", n=20, n_test=500, classes=10, rows=rows)


OLD = {"work_seconds": (), "work_clock": None}


@pytest.mark.parametrize(
    ("rows", "heading", "cells"),
    [
        ([{}, {}], "CPU seconds, ours", ["4 ± 1", "4 ± 1"]),
        ([{"work_clock": "device"}] * 2, "device seconds, ours", ["4 ± 1", "4 ± 1"]),
        # One row of an earlier version, or of another kind of device: all are of the wall clock.
        ([{}, OLD], "seconds, ours", ["15", "15"]),
        ([{}, {"work_clock": "device"}], "seconds, ours", ["15", "15"]),
        ([OLD, OLD], "seconds, ours", ["15", "15"]),
    ],
)
def test_a_column_of_seconds_is_of_one_clock(rows, heading, cells):
    part = a_part(*(a_row(f"row {i}", **given) for i, given in enumerate(rows)))
    assert training_headings(part) == [(heading, "ours")]
    assert [training_cells(part, row) for row in part.rows] == [[cell] for cell in cells]
    result = Result(table=TABLE.name, scale="smoke", parts=(part,))
    for text in (as_markdown(table_page(TABLE, result)), render(table_page(TABLE, result))):
        assert heading in text
        assert ("CPU seconds" in text) == (heading == "CPU seconds, ours")
        assert ("of the wall clock" in text) == (heading == "seconds, ours")
        assert all(f" {cell} |" in text or f">{cell}<" in text for cell in cells)


def test_epochs_stand_with_their_warm_start_and_with_what_did_not_converge():
    def endings(*values, warm=0):
        return tuple(Ending(converged=done, epochs=epochs, warm_epochs=warm) for epochs, done in values)

    part = a_part(
        a_row("a", endings=endings((10, True), (14, True), warm=3), minutes=83),
        a_row("b", endings=endings((30, True), (60, False)), minutes=106),
        a_row("c"),
    )
    assert [title for title, _ in training_headings(part)] == [
        "minutes, published",
        "epochs, ours",
        "CPU seconds, ours",
    ]
    assert [training_cells(part, row)[:2] for row in part.rows] == [
        ["83", "3 + 12.0 ± 2.8"],
        ["106", "45.0 ± 21.2, not converged: 1 of 2"],
        ["–", "–"],
    ]
    assert len(training_words(part)) == 2
    assert "“stopped”" not in training_words(part)[1]
    ended = (
        Ending(epochs=10),
        Ending(epochs=4, stopped="patience"),
        Ending(epochs=7, stopped="collapse"),
        Ending(converged=False, epochs=7, stopped="collapse"),
    )
    stopped = a_part(a_row("d", endings=ended[:2]), a_row("e", endings=ended[2:]))
    assert [training_cells(stopped, row)[0] for row in stopped.rows] == [
        "7.0 ± 4.2, stopped: 1 of 2",
        "7.0 ± 0.0, collapsed: 2 of 2",
    ]
    assert "“stopped” counts" in training_words(stopped)[1]
    assert "not converged: 1 of 2" in render(table_page(TABLE, Result(table=TABLE.name, scale="smoke", parts=(part,))))


@pytest.mark.parametrize(
    "given", [{"work_seconds": (1.0,)}, {"work_clock": None}, {"endings": (Ending(converged=True, epochs=1),)}]
)
def test_seconds_and_endings_are_one_a_seed(given):
    with pytest.raises(ValidationError, match="of other seeds than its own"):
        a_row("a", **given)


def told(train, work, clock="cpu", ending=None):
    fields = {
        "recipe": "at",
        "method": "at",
        "data": "d",
        "data_fingerprint": "f",
        "classes": [],
        "norm": "Linf",
        "eps": 0.1,
    }
    fields |= {
        "seed": 0,
        "epochs": 1,
        "train_images": 1,
        "validation": {},
        "corral": "0",
        "torch": "0",
        "device": "cpu",
    }
    return RunInfo(**fields, train_seconds=train, work_seconds=work, work_clock=clock, ending=ending)


def test_seconds_of_a_row_are_those_of_all_its_stages_or_none():
    done = Ending(converged=True, epochs=7)
    seeds = [[told(5, 2), told(6, 3, ending=done)], [told(1, 1), told(2, 1.5, ending=done)]]
    found = [measure._training_of(stages) for stages in seeds]
    assert found == [Trained(11, 5, "cpu", done), Trained(3, 2.5, "cpu", done)]
    both = assemble._training([a_run(one) for one in found])
    assert both == {"train_seconds": (11, 3), "work_seconds": (5, 2.5), "work_clock": "cpu", "endings": (done, done)}
    for other in (told(1, None, None), told(1, 1, "device")):
        found = [measure._training_of([told(5, 2), told(6, 3)]), measure._training_of([other, told(2, 1)])]
        left = assemble._training([a_run(one) for one in found])
        assert left == {"train_seconds": (11, 3), "work_seconds": (), "work_clock": None, "endings": ()}


def a_run(trained):
    record = Record(
        run="r", recipe="at", method="at", head="linear", rule=None, data="d", data_fingerprint="f",
        model_fingerprint="m", n=10, n_test=10, train_seed=0, train_seconds=1.0, created="now",
        environment=environment(torch.device("cpu")), classes=["a"], reduced=False, norm="Linf", eps=0.1, clean=0.5,
        clean_per_class=[0.5], attacks=[], eval_seed=0, eval_seconds=1.0,
    )  # fmt: skip
    return run_line(record, eps=0.1, trained=trained)


@pytest.mark.parametrize("scale", TABLE.scales)
def test_magnet_and_clustr_differ_in_the_warm_start_alone(scale, tmp_path):
    rows = {row.name: row for row in TABLE.rows}
    for part in TABLE.scales[scale]:
        recipes = {name: RunPlan(tmp_path).planned(part, row, 0)[0] for name, row in rows.items()}
        rules = {recipe.training.converged.model_dump_json() for recipe in recipes.values()}
        assert rules == {'{"tolerance":0.002,"epochs":10}'}
        assert {recipe.training.select for recipe in recipes.values()} == {"last"}
        warm = {name: recipe.training.warm_start.epochs for name, recipe in recipes.items()}
        assert {name for name, epochs in warm.items() if epochs == 0} == set(WITHOUT)
        for one, two in (("Magnet Loss", "ClusTR"), ("ours: Magnet Loss in log space", "ours: ClusTR in log space")):
            magnet, clustr = (
                recipes[name].model_dump(
                    exclude={"name": True, "summary": True, "source": True, "reported": True, "method": {"name"},
                             "training": {"warm_start"}}
                )
                for name in (one, two)
            )  # fmt: skip
            assert magnet == clustr


def test_a_made_table_tells_when_its_runs_converged_and_keeps_a_run_of_an_earlier_version(tmp_path):
    options = {"runs": tmp_path / "runs", "results": tmp_path / "results", "device": "cpu", "progress": False}
    page = reproduce("clustr-convergence", rows=["Magnet Loss", "ClusTR"], **options)
    (part,) = read_result(page.with_name("table.json")).parts
    for row in part.rows:
        (run,) = row.runs
        info = load_model(tmp_path / "runs" / "smoke" / run)[2]
        assert (row.endings, row.work_seconds, row.work_clock) == ((info.ending,), (info.work_seconds,), "cpu")
        assert row.train_seconds == (info.train_seconds,)
        assert info.ending.warm_epochs == (row.name == "ClusTR")
    assert "| CPU seconds, ours |" in page.with_name("table.md").read_text()
    # A run as version 0.1.0 wrote it: the column goes back to the wall clock, for both rows.
    model = Run(tmp_path / "runs" / "smoke" / part.rows[0].runs[0]).model_file
    tensors, metadata = read_checkpoint(model, kind="model")
    for key in ("work_seconds", "work_clock", "ending"):
        del metadata["info"][key]
    write_checkpoint(model, tensors, metadata)
    page = reproduce("clustr-convergence", rows=["Magnet Loss"], **options)
    text = page.with_name("table.md").read_text()
    assert "| seconds, ours |" in text
    assert "CPU seconds" not in text
