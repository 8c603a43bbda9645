"""docs/extending/head.md runs as it stands there."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import corral
from corral.certify import head_radius
from corral.errors import CorralError, UsageError
from corral.models.heads import HEADS
from corral.registry import import_plugin
from corral.training import load_model, train


def test_the_head_of_the_page_is_trained_attacked_certified_and_exported(
    extending: Callable[[str], str], tmp_path: Path
) -> None:
    extending("extending/head.md")
    run = tmp_path / "runs" / "a"
    (record,) = (json.loads(path.read_text()) for path in (run / "records").glob("*.json"))
    (certificate,) = (json.loads(path.read_text()) for path in (run / "certificates").glob("*.json"))
    assert (record["head"], record["rule"]) == ("prototypes", None)
    assert (certificate["head"], certificate["broken"]) == ("prototypes", 0)
    assert certificate["median"] > 0
    assert (tmp_path / "prototypes.pt2").is_file()
    assert tomllib.loads((run / "recipe.toml").read_text())["model"]["head"] == {"name": "prototypes"}


HEAD = """
import torch
from torch import nn

import corral


class Scaled(corral.Head):
    def __init__(self, features: int, classes: int, *, scale: float = 1.0):
        super().__init__()
        self.features_dim, self.num_classes, self.scale = features, classes, scale
        self.linear = nn.Linear(features, classes)

    def forward(self, features):
        return self.scale * self.linear(features)


class Forgetful(Scaled):
    def __init__(self, features: int, classes: int, *, offset: float = 0.0):
        super().__init__(features, classes)
"""
TINY = {"data.train": 200, "width": 4, "model.features": 8, "epochs": 1}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "scaled.py"
    path.write_text(HEAD)
    return path


def test_a_head_is_named_by_its_file_and_its_runs_need_that_file(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    head = {"name": f"{file}:Scaled", "scale": 2.0}
    train("nominal", out=out, progress=False, **TINY, **{"model.head": head})
    model, spec, _ = load_model(out)
    assert spec.head == {"name": f"{file.resolve()}:Scaled", "scale": 2.0}
    assert model.head.scale == 2.0
    with pytest.raises(UsageError, match="a Scaled has no radius"):
        head_radius(model.head, torch.zeros(1, 8))
    # Nothing that another process reads of the folder runs the file.
    program = f"import corral; corral.load({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "which a document does not make it run" in last
    assert "--plugin" in last
    # The recipe in the folder neither.
    program = f"from corral.training import load_recipe; load_recipe({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "which a document does not make it run" in done.stderr
    program = f"import corral.registry as r; r.import_plugin({str(file)!r}); import corral; corral.load({str(out)!r})"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_head_that_could_not_be_read_again_is_refused_before_training(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="head Forgetful cannot be saved: it keeps no attribute 'offset'"):
        train("at", out=tmp_path / "run", progress=False, **TINY, **{"model.head": f"{file}:Forgetful"})
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="no 'Scale'; did you mean 'Scaled'"):
        train("at", out=tmp_path / "run", progress=False, **TINY, **{"model.head": f"{file}:Scale"})
    with pytest.raises(UsageError, match=r"is no head: it must be a class that derives from corral\.models\.Head"):
        train("at", out=tmp_path / "run", progress=False, **TINY, **{"model.head": f"{file}:nn"})


@pytest.mark.parametrize(
    ("value", "words"),
    [("torch.ones(8)", "is of Tensor, which JSON does not hold"), ("float('inf')", "is of float, which JSON does not")],
)
def test_a_head_with_an_option_that_no_file_holds_is_refused_before_training(
    tmp_path: Path, value: str, words: str
) -> None:
    file = tmp_path / "kept.py"
    file.write_text(HEAD.replace("= features, classes, scale", f"= features, classes, {value}"))
    with pytest.raises(UsageError, match=f"head Scaled cannot be saved: its option 'scale' {words}"):
        train("nominal", out=tmp_path / "run", progress=False, **TINY, **{"model.head": f"{file}:Scaled"})
    assert not (tmp_path / "run").exists()


def test_a_method_whose_head_nobody_registered_is_refused_before_training(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from corral.training.methods.at import AdversarialTraining

    kind = import_plugin(str(file)).Scaled
    monkeypatch.setattr(AdversarialTraining, "make_head", lambda self: kind(self.model.features_dim, 10))
    with pytest.raises(UsageError, match="a Scaled is no registered head, so a model with it cannot be read") as caught:
        train("at", out=tmp_path / "run", progress=False, **TINY)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_head_is_registered_by_its_name_and_an_unknown_one_says_how(tmp_path: Path) -> None:
    @corral.register
    class Own(corral.models.LinearHead):
        name = "own-linear"

    try:
        assert HEADS["own-linear"] is Own
        train("nominal", out=tmp_path / "run", progress=False, **TINY, **{"model.head": "own-linear"})
        assert type(corral.load(tmp_path / "run").head) is Own
    finally:
        del HEADS._things["own-linear"]
    with pytest.raises(
        CorralError, match=r"unknown head 'own-linear'.*If a plugin has it, name that by `corral --plugin"
    ):
        corral.load(tmp_path / "run")
