"""docs/your-model.md: its Python runs in one go on a small network, its commands have the options that they name."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import corral
from corral.cli import app
from corral.models import BACKBONES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "your-model.md").read_text()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer4, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(6, 10)

    def forward(self, x):
        return self.fc(self.layer4(x).relu().mean((2, 3)))


@pytest.fixture(autouse=True)
def forgotten():
    yield
    BACKBONES._held.clear()


def test_its_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    # The same lines on digits, one channel, and smaller.
    code = code.replace('normalise="cifar10"', 'normalise="half"').replace('"cifar10"', '"digits"')
    code = code.replace('out="runs/mine"', 'out="runs/mine", epochs=1')
    code = code.replace('eps="8/255")', 'eps="8/255", epochs=1)')
    code = code.replace('protocol="standard"', 'attacks=["fgsm"]').replace('"runs/at", ', "")
    test = corral.data.stratified_subset(corral.data.load("digits").test, 40, seed=0)
    names = {"net": Net(), "make": Net, "x": test.float(), "y": test.labels}
    names |= {"my_dataset": (names["x"], names["y"]), "features": torch.rand(40, 3), "labels": torch.arange(40) % 2}
    exec(code, names)
    assert (tmp_path / "report.html").is_file()
    assert names["model"].head.num_classes == 10
    assert names["head"].centroids.shape == (4, 3)


def test_its_commands_exist_with_their_options():
    commands = re.findall(r"^corral (\w+)((?: [^#\n]*)?)", PAGE, re.MULTILINE)
    assert {name for name, _ in commands} == {"evaluate", "report", "train", "cluster"}
    for name, rest in commands:
        text = CliRunner().invoke(app, [name, "--help"]).output
        for option in re.findall(r"--[\w-]+", rest):
            assert option in text, f"corral {name} has no {option}"
