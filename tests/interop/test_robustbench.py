"""RobustBench's own code makes a leaderboard of what `corral report --robustbench` writes."""

import dataclasses
import json
import sys

import pytest
from tests.report.conftest import make_arrays, make_record, write_run  # noqa: F401

from corral.report.robustbench import write_model_info

pytestmark = pytest.mark.filterwarnings("ignore")
ATTACKS = {"apgd-ce": 0.7, "autoattack": 0.6589, "worst_case": 0.6}


def test_its_list_of_models_shows_our_run(interop, write_run, tmp_path, monkeypatch, capsys):  # noqa: F811
    what = "`list_available_models` reads the JSON of `corral report --robustbench`"
    row, _ = interop("RobustBench", "robustbench", what, "pyautoattack")
    # Of its two copies on the package index, the one within torchattacks imports AutoAttack by the repository's name.
    monkeypatch.setitem(sys.modules, "autoattack", sys.modules["pyautoattack"])
    utils = pytest.importorskip("robustbench.utils")
    run = write_run(make_record("Ours2026Clusters", ATTACKS, eps=8 / 255, data="cifar10"))
    (path,) = write_model_info([run], folder=tmp_path / "model_info")
    known = {field.name for field in dataclasses.fields(utils.ModelInfo)} | {"external"}
    assert set(json.loads(path.read_text())) <= known
    models = {utils.BenchmarkDataset.cifar_10: {utils.ThreatModel.Linf: {"Ours2026Clusters": None}}}
    monkeypatch.setattr(utils, "all_models", models)
    monkeypatch.chdir(tmp_path)  # where it looks for model_info
    utils.list_available_models("cifar10", "Linf")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Ours2026Clusters" in line]
    assert "98.00%" in line
    assert "60.00%" in line  # the best known: `external`
    assert "Unpublished" in line
    row.result = "listed, with its clean and its best-known robust accuracy"
