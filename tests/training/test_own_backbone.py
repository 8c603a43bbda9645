"""A backbone that the user gives: trained, saved, and found again or asked for in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import corral
from corral.analysis.analyze import analyze
from corral.cli import main
from corral.errors import CorralError, UsageError
from corral.models import BACKBONES
from corral.training import load_model

TINY = {"data.train": 60, "epochs": 1, "progress": False}
FILE = """
import torch
from torch import nn

calls = []

class Net(nn.Module):
    def __init__(self, width: int = 4, activation=torch.relu, **kwargs):
        super().__init__()
        calls.append(kwargs)
        self.conv, self.activation = nn.Conv2d(1, width, 3), activation
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        return self.fc(self.activation(self.conv(x)).mean((2, 3)))

def build():
    return Net(6)

ready = Net(5)
"""


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture(autouse=True)
def forgotten():
    yield
    BACKBONES._held.clear()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_a_module_is_copied_trained_from_its_weights_and_asked_for_elsewhere(net, tmp_path):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    run = corral.train("at", backbone=net, data="digits", out=tmp_path / "run", **TINY)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    model, spec, info = load_model(run)
    assert info.started_from == corral.models.fingerprint.fingerprint(net)
    assert spec.backbone.name.startswith("given-Sequential-")
    assert model.features_dim == 3
    x = torch.rand(4, 1, 8, 8)
    logits = model(x)
    BACKBONES._held.clear()  # another process
    for call in (corral.load, lambda run: corral.evaluate(run, n=10), analyze):
        with pytest.raises(
            CorralError, match=r"was given as an object: give it again, by `corral.load\(run, backbone="
        ):
            call(run)
    assert torch.equal(corral.load(run, backbone=net)(x), logits)
    assert corral.evaluate(run, n=10, progress=False).n == 10  # it stands for the run's from then on


def test_the_same_module_resumes_a_run(net, tmp_path):
    whole = corral.train("at", backbone=net, data="digits", out=tmp_path / "whole", **TINY | {"epochs": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("corral.training.loop.Training._finish", lambda self: None)
        patch.setattr("corral.training.loop.Training.total_epochs", property(lambda self: 1))
        corral.train("at", backbone=net, data="digits", out=tmp_path / "run", **TINY | {"epochs": 2})
    BACKBONES._held.clear()
    run = corral.train("at", backbone=net, data="digits", out=tmp_path / "run", resume=True, **TINY | {"epochs": 2})
    models = [corral.load(path, backbone=net).state_dict() for path in (run, whole)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


@pytest.mark.parametrize("place", ["build", "Net", "ready"])
def test_a_file_is_a_target_with_its_options_in_the_shell(place, file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--set", "model.width=3", "--set", "model.num_classes=0"] if place == "Net" else []
    command = ["train", "at", "--backbone", f"mine.py:{place}", *options, "--features", "conv", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["corral", *command, "--set", "data.train=60", "--out", "run", "--quiet"])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    assert out.splitlines()[-1] == f"next: corral evaluate run --backbone mine.py:{place}"
    model, spec, _ = load_model("run")
    assert model.features_dim == {"build": 6, "Net": 3, "ready": 5}[place]
    assert spec.backbone.name == f"{file.resolve()}:{place}"
    assert (
        spec.backbone.options()
        == {
            "build": {"features": None, "layer": "conv"},
            "Net": {"width": 3, "features": None, "layer": "conv", "num_classes": 0},
            "ready": {"features": None, "layer": "conv"},
        }[place]
    )
    # Another process runs no code that a folder names, and does where the user names it.
    ask = "import corral; corral.load('run'{}); import sys; print(sorted(sys.modules))"
    lost = subprocess.run([sys.executable, "-c", ask.format("")], capture_output=True, text=True, check=False)
    assert f"if you trust this code, name it: --backbone {file.resolve()}:{place}" in lost.stderr
    monkeypatch.setattr(sys, "argv", ["corral", "evaluate", "run", "--backbone", f"mine.py:{place}", "--n", "10"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


def test_other_code_under_the_name_of_a_run_is_found(file, tmp_path):
    run = corral.train("at", backbone=f"{file}:Net", data="digits", out=tmp_path / "run", **TINY)
    assert corral.load(run).features_dim == 4
    other = tmp_path / "other.py"
    other.write_text(FILE.replace("activation=torch.relu", "activation=torch.tanh"))
    with pytest.raises(CorralError, match="gives other features for the same image than when the run was trained"):
        corral.load(run, backbone=f"{other}:Net")
    other = tmp_path / "another.py"
    other.write_text(FILE.replace("nn.Conv2d(1, width, 3)", "nn.Conv2d(1, width, 5)"))
    with pytest.raises(CorralError, match=r"backbone.conv.weight"):
        corral.load(run, backbone=f"{other}:Net")


def test_an_importable_function_is_recorded_by_its_place(tmp_path):
    from torch.nn import Flatten

    run = corral.train("at", backbone=Flatten, data="digits", out=tmp_path / "run", **TINY)
    _, spec, _ = load_model(run)
    assert spec.backbone.name == "torch.nn.modules.flatten:Flatten"
    assert spec.backbone.options() == {"features": None, "start_dim": 1, "end_dim": -1}


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (3, "a backbone is a name, file.py:function, a torch.nn.Module or a function that makes one, found a int"),
        ("resnett", "unknown backbone 'resnett'; did you mean 'resnet'"),
        ("gone.py:build", "gone.py: no such file"),
    ],
)
def test_what_is_no_backbone_is_one_line(backbone, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        corral.train("at", backbone=backbone, data="digits", out=tmp_path / "run", **TINY)


@pytest.mark.parametrize(
    ("normalise", "mean", "std"),
    [("none", (0.0,), (1.0,)), ("half", (0.5,), (0.5,)), ("0.25/2", (0.25,), (2.0,)), ("mnist", (0.1307,), (0.3081,))],
)
def test_a_recipe_names_its_normalisation(normalise, mean, std, tmp_path):
    run = corral.train("at", data="digits", out=tmp_path / "run", **TINY, **{"model.normalise": normalise})
    model, spec, _ = load_model(run)
    assert (spec.mean, spec.std) == (mean, std)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model.features(x), model.backbone((x - mean[0]) / std[0]))


def test_a_normalisation_of_other_channels_is_one_line(tmp_path):
    given = TINY | {"model.normalise": "imagenet"}
    with pytest.raises(UsageError, match=r"normalise 'imagenet' is of 3 channels, the images have 1"):
        corral.train("at", data="digits", out=tmp_path / "run", **given)
    with pytest.raises(UsageError, match=r"model.normalise: takes none, half, imagenet, .*found 'nothing'"):
        corral.train("at", data="digits", out=tmp_path / "run", **TINY | {"model.normalise": "nothing"})
