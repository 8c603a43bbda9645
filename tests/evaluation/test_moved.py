"""Runs whose data lie elsewhere now than at their training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import corral
from corral.analysis.analyze import analyze
from corral.cli import app
from corral.data import load
from corral.errors import CorralError
from corral.evaluation.certification import certify_run
from corral.evaluation.fit_heads import fitted_heads
from corral.training import load_recipe

SMALL = {"epochs": 1, "model.backbone": "mlp", "model.hidden": [8], "threat.eps": 0.1, "training.batch_size": 8}
QUIET = {"progress": False, "device": "cpu"}


def write(folder: Path, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    for label, name in enumerate(("ant", "bee")):
        (folder / name).mkdir(parents=True)
        for number in range(15):
            pixels = generator.integers(120 * label, 120 * label + 100, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A run trained on a folder by its relative name, and where that folder lies now."""
    write(tmp_path / "begun" / "photos")
    monkeypatch.chdir(tmp_path / "begun")
    run = corral.train("corral", data="folder:photos", out=tmp_path / "run", **QUIET, **SMALL)
    monkeypatch.chdir(tmp_path)
    before = corral.evaluate(run, attacks=["fgsm"], **QUIET)  # from another working directory
    assert before.data == f"folder:{tmp_path / 'begun/photos'}"
    (tmp_path / "begun").rename(tmp_path / "moved")
    return run, tmp_path / "moved" / "photos"


def test_every_verb_takes_where_the_data_lie_and_names_the_option(moved: tuple[Path, Path]) -> None:
    run, place = moved
    name = f"folder:{place}"
    earlier = corral.evaluation.read_record(run / "records/custom.json")
    verbs = {
        "evaluate": lambda data: corral.evaluate(run, attacks=["fgsm"], data=data, **QUIET),
        "certify": lambda data: certify_run(run, radii=[0.1], attack=False, data=data, **QUIET),
        "analyze": lambda data: analyze(run, only=["compactness"], data=data, **QUIET)["compactness"],
        "audit": lambda data: corral.audit(str(run), data, minutes=0.05, **QUIET),
    }
    absent = r"begun/photos: does not exist; give a folder of images; where the run's data lie elsewhere now, name them"
    found = {}
    for verb, call in verbs.items():
        with pytest.raises(CorralError, match=absent + r" by --data \(data=\.\.\.\)"):
            call(None)
        found[verb] = call(name)
    assert found["evaluate"].clean == earlier.clean
    assert [attack.accuracy for attack in found["evaluate"].attacks] == [one.accuracy for one in earlier.attacks]
    assert found["evaluate"].data_fingerprint == found["certify"].data_fingerprint == earlier.data_fingerprint
    assert found["audit"].n_data == found["evaluate"].n == 6  # no training image is new to the model
    assert certify_run(run, radii=[0.1], attack=False, data=load(name), **QUIET).at == found["certify"].at


def test_other_data_are_refused_whatever_they_are_called(moved: tuple[Path, Path], tmp_path: Path) -> None:
    run, place = moved
    other = f"folder:{write(tmp_path / 'other', seed=1)}"
    for call in (
        lambda: corral.evaluate(run, attacks=["fgsm"], data=other, **QUIET),
        lambda: certify_run(run, data=other, **QUIET),
        lambda: analyze(run, only=["compactness"], data=other, **QUIET),
        lambda: fitted_heads(run, ["nearest"], data=other, **QUIET),
    ):
        with pytest.raises(CorralError, match=f"{run}: trained on other data: {other} has fingerprint"):
            call()
    with pytest.raises(CorralError, match=r"absent: does not exist; give a folder of images$"):
        corral.evaluate(run, data=f"folder:{tmp_path / 'absent'}", **QUIET)
    write(tmp_path / "begun" / "photos", seed=1)  # other images where the run's were
    with pytest.raises(CorralError, match="trained on other data"):
        corral.audit(str(run), None, minutes=0.05, **QUIET)
    assert place.is_dir()


def test_heads_are_fitted_on_moved_data_and_kept_when_they_move_again(moved: tuple[Path, Path]) -> None:
    run, place = moved
    (head,) = fitted_heads(run, ["nearest"], data=f"folder:{place}", **QUIET)
    assert load_recipe(head).data.name == f"folder:{place}"
    again = place.rename(place.parent / "again")
    assert fitted_heads(run, ["nearest"], data=f"folder:{again}", **QUIET) == [head]


@pytest.mark.parametrize("verb", ["evaluate", "certify", "analyze"])
def test_the_option_of_the_command_line(verb: str, moved: tuple[Path, Path]) -> None:
    run, place = moved
    more = {"evaluate": ["--attack", "fgsm"], "certify": ["--no-attack"], "analyze": ["--only", "compactness"]}[verb]
    arguments = [verb, str(run), "--quiet", "--device", "cpu", *more]
    assert isinstance(CliRunner().invoke(app, arguments).exception, CorralError)
    result = CliRunner().invoke(app, [*arguments, "--data", f"folder:{place}"])
    assert result.exit_code == 0, result.output
