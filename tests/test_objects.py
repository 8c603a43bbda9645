"""What a program and a notebook see of a run, a record, a data set and a classifier."""

import copy
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

import corral
from corral.errors import CorralError, UsageError
from corral.evaluation import read_record
from corral.models import Classifier, ClusterHead
from corral.targets import load_target

SMALL = {"data.train": 100, "width": 4, "model.features": 8, "warm_start.epochs": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return corral.train(
        "corral", out=tmp_path_factory.mktemp("objects") / "a<b", epochs=1, eps="8/255", progress=False, **SMALL
    )


@pytest.fixture(scope="module")
def record(run):
    return corral.evaluate(run, n=30, progress=False)


def test_a_run_stands_for_its_folder(run):
    path = run.path
    assert isinstance(run, corral.Run)
    assert isinstance(path, Path)
    assert (os.fspath(run), str(run), f"{run}") == (str(path),) * 3
    assert run / "recipe.toml" == path / "recipe.toml" == run.recipe_file
    assert (run == path, path == run, run != path.parent, run == corral.Run(str(path))) == (True,) * 4
    assert {run: 1}[path] == 1
    assert (run.name, run.parent, run.exists(), Path(run), len(list(run.glob("*.toml")))) == (
        *("a<b", path.parent, True, path),
        1,
    )
    assert pickle.loads(pickle.dumps(run)) == copy.deepcopy(run) == run
    with pytest.raises(AttributeError):
        run.no_such_name  # noqa: B018


def test_what_is_in_a_run_is_read_when_it_is_asked_for(run, record):
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(run.model(x), corral.load(run)(x))
    assert not run.model.training
    assert (run.info.data, run.info.eps, run.info.epochs) == ("digits", 8 / 255, 1)
    assert (run.recipe.name, run.recipe.training.epochs) == ("corral", 1)
    assert [epoch["epoch"] for epoch in run.metrics] == [1]
    assert run.records == (read_record(run / "records" / "quick-n30.json"),)
    assert run.records[0].lowest.name == "worst_case"


def test_what_takes_a_run_takes_the_object(run, record, tmp_path):
    run = corral.Run(shutil.copytree(run, tmp_path / "a"))
    assert corral.export(run, tmp_path / "model.ts").is_file()
    again = corral.train(run, out=tmp_path / "again", progress=False)
    for one, two in zip(again.model.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert corral.train("corral", out=run, resume="auto", epochs=1, eps="8/255", progress=False, **SMALL) == run
    begun = corral.train("at-pretrained", out=tmp_path / "on", epochs=1, progress=False, start=run, **SMALL)
    assert begun.recipe.training.start == str(run)
    assert corral.cluster(run, corral.data.load("digits"), n=60, progress=False).num_classes == 10
    one, two = (corral.evaluate(what, attacks=["fgsm"], n=10, progress=False) for what in (run, run.model_file))
    assert (one.clean, one.run, one.attacks[0].accuracy) == (two.clean, two.run, two.attacks[0].accuracy)
    assert corral.Run(run).records[-1].protocol == "custom"
    target = load_target(run)
    assert (target.name, target.kind) == (str(run), "run")
    assert corral.analyze(run, only=["compactness"], n=30, progress=False).keys() == {"compactness"}
    assert corral.report(run, out=tmp_path / "page.html").is_file()


def test_their_lines(run, record):
    data = corral.data.load("digits")
    lowest = record.lowest
    assert repr(run) == f"Run('{run.path}': corral on digits, Linf 8/255, 1 epoch, seed 0, 1 record)"
    assert (
        repr(record)
        == str(record)
        == (
            f"Record(a<b: corral on digits, 30 of {record.n_test:,} images, quick at Linf 8/255, "
            f"clean {100 * record.clean:.1f}%, {lowest.name} {100 * lowest.accuracy:.1f}%)"
        )
    )
    assert repr(data) == "DataSet(digits: 1,297 train, 500 test, images (1, 8, 8), 10 classes)"
    assert repr(data.test) == "Images(500: (1, 8, 8), uint8, labelled)"
    head = "ClusterHead(rule soft: 10 clusters of 10 classes, 8 features)"
    count = sum(parameter.numel() for parameter in run.model.parameters())
    assert repr(run.model.head) == head
    assert repr(run.model) == f"Classifier(convnet: images (1, 8, 8), {count:,} parameters, {head}, 10 classes)"
    assert repr(corral.models.LinearHead(8, 3)) == "LinearHead(8 features: 3 classes)"
    plain = Classifier(torch.nn.Flatten(), ClusterHead(torch.eye(4), torch.tensor([0, 0, 1, 1]), 1.0), [0.0], [1.0])
    assert repr(plain).startswith("Classifier(Flatten: images (1, H, W), 1 parameters, ClusterHead(")


def test_a_notebook_shows_them_as_tables_with_names_escaped(run, record):
    for thing in (run, record, corral.data.load("digits"), run.model, run.model.head):
        page = thing._repr_html_()
        assert page.startswith(f"<b>{type(thing).__name__} ")
        assert page.count("<table>") == page.count("</table>") >= 1
        assert "a<b" not in page
    assert "a&lt;b" in run._repr_html_()
    assert all(f"<td>{result.name}</td>" in record._repr_html_() for result in record.attacks)


def test_a_run_that_is_none_unfinished_or_damaged_says_so(run, tmp_path):
    path = tmp_path / "run"
    assert repr(corral.Run(path)) == f"Run('{path}': no run)"
    path.mkdir()
    (path / "recipe.toml").write_bytes(run.recipe_file.read_bytes())
    assert repr(corral.Run(path)) == f"Run('{path}': unfinished)"
    (path / "model.safetensors").write_bytes(run.model_file.read_bytes()[:1000])
    assert repr(corral.Run(path)) == f"Run('{path}': damaged)"
    for name in ("model", "info"):
        with pytest.raises(CorralError, match="truncated"):
            getattr(corral.Run(path), name)
    with pytest.raises(UsageError, match="no such run or model file"):
        corral.Run(tmp_path / "absent").info  # noqa: B018
    assert corral.Run(path).records == ()


def test_the_name_of_before_says_what_it_is_now():
    with pytest.raises(AttributeError, match=r"RunFolder is Run now: RunFolder\(path\).model is Run\(path\)"):
        corral.training.RunFolder  # noqa: B018


def test_a_record_s_rows_are_its_attacks(record):
    rows = record.rows()
    assert [row["attack"] for row in rows] == [result.name for result in record.attacks]
    for row, result in zip(rows, record.attacks, strict=True):
        assert (row["n"], row["eps"], row["accuracy"], row["seconds"]) == (
            *(result.n, result.eps, result.accuracy),
            result.seconds,
        )
        assert (row["run"], row["clean"], row["norm"]) == (record.run, record.clean, "Linf")


def test_a_record_as_a_frame(record):
    pandas = pytest.importorskip("pandas")
    frame = record.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.to_dict("records") == record.rows()


def test_a_frame_without_pandas_is_one_line(record, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(UsageError, match=r"^Record.to_frame needs pandas: pip install pandas; Record.rows\(\) does"):
        record.to_frame()
