"""RobustBench's model_info of runs: its fields, and the records that are none of its figures."""

import json

import pytest
from typer.testing import CliRunner

from corral.cli import app
from corral.errors import CorralError
from corral.models.fingerprint import fingerprint
from corral.records import Reported
from corral.report.robustbench import write_model_info
from corral.training import load_model, train

# Of the 184 files of the leaderboards of perturbations, all have these.
FIELDS = (
    *("link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture"),
    *("eps", "clean_acc", "reported", "autoattack_acc"),
)
ATTACKS = {"apgd-ce": 0.7, "apgd-t": 0.66, "autoattack": 0.6589, "worst_case": 0.6589}


@pytest.fixture
def written(write_run, record, tmp_path):
    """The model_info of a synthetic run."""

    def make(attacks=ATTACKS, **changes):
        run = write_run(record("a", attacks, eps=8 / 255, data="cifar10", **changes))
        (path,) = write_model_info([run], folder=tmp_path / "model_info")
        assert path == tmp_path / "model_info" / "cifar10" / "Linf" / "a.json"
        return json.loads(path.read_text())

    return make


def test_the_fields_are_robustbench_s_and_the_numbers_the_record_s(written):
    info = written()
    assert set(FIELDS) | {"footnote"} == set(info)
    assert (info["eps"], info["dataset"], info["number_forward_passes"]) == ("8/255", "cifar10", 1)
    assert (info["clean_acc"], info["autoattack_acc"], info["reported"]) == ("98.00", "65.89", "65.89")
    assert info["additional_data"] is False
    assert info["footnote"] == "400 test images; AutoAttack standard of corral 0.1.0; model model-of-a."


def test_what_other_attacks_found_is_external_and_a_claim_is_reported(written):
    claim = Reported(clean=0.9, robust=0.744, attack="PGD-20", source="a paper")
    info = written({**ATTACKS, "adaptive": 0.5, "worst_case": 0.49}, reported=claim)
    assert (info["external"], info["autoattack_acc"], info["reported"]) == ("49.00", "65.89", "74.40")


@pytest.mark.parametrize(
    ("attacks", "changes", "words"),
    [
        ({"pgd_ce": 0.4}, {}, "RobustBench lists AutoAttack, and no record here has it"),
        (ATTACKS, {"n": 100, "reduced": True}, "of whole test sets, AutoAttack met 100 of 400 images"),
        (ATTACKS, {"data": "folder:/photos"}, "named data sets in Linf and L2, found folder:/photos"),
        (ATTACKS, {"data": "own/arrays"}, "named data sets in Linf and L2, found own/arrays"),
        (ATTACKS, {"norm": "L1"}, "named data sets in Linf and L2, found L1"),
    ],
)
def test_what_is_none_of_its_figures_is_refused_and_nothing_written(
    write_run, record, tmp_path, attacks, changes, words
):
    run = write_run(record("a", attacks, **changes))
    with pytest.raises(CorralError, match=words) as caught:
        write_model_info([run], folder=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_no_run_says_what_it_is_and_claims_nothing(write_run, record, tmp_path):
    foreign = dict.fromkeys(("recipe", "method", "head", "rule", "train_seed", "train_seconds"))
    folder = write_run(
        record("../models.py:load", ATTACKS, kind="python", data="cifar10", **foreign), folder="measured"
    )
    (path,) = write_model_info([folder], folder=tmp_path / "out")
    assert path == tmp_path / "out" / "cifar10" / "Linf" / "..-models.py-load.json"
    info = json.loads(path.read_text())
    assert (info["name"], info["architecture"]) == ("../models.py:load", "../models.py:load")
    assert info["additional_data"] is None


def test_a_run_s_backbone_head_and_images_are_said(write_run, record, tmp_path):
    settings = {"data.train": 60, "model.width": 2, "model.features": 4, "training.epochs": 1}
    run = train("corral", out=tmp_path / "run", progress=False, device="cpu", **settings)
    known = fingerprint(load_model(run)[0])
    write_run(record("run", ATTACKS, model_fingerprint=known), folder="run")
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["report", str(run), "--out", str(out / "page.html"), "--robustbench", str(out), "--json"]
    )
    assert result.exit_code == 0, result.output
    path = out / "digits" / "Linf" / "run.json"
    assert json.loads(result.stdout) == {"report": str(out / "page.html"), "robustbench": [str(path)]}
    info = json.loads(path.read_text())
    assert info["architecture"].startswith("convnet (width 2, features 4")
    assert info["architecture"].endswith("cluster head, rule soft")
    assert info["name"] == "corral, docs/method.md, row C'"
    with pytest.raises(CorralError, match="another run would be written to"):
        write_model_info([run, run], folder=out)
