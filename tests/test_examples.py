"""What README shows runs as it stands there."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import corral
from corral.cli import app

README = Path(__file__).resolve().parents[1] / "README.md"


def test_every_command_that_readme_shows_exists_with_its_options():
    commands = re.findall(r"^corral (\w+)((?: [^#\n]*)?)", README.read_text(), re.MULTILINE)
    assert {name for name, _ in commands} >= {"train", "evaluate", "report", "audit", "recipes", "data"}
    for name, rest in commands:
        text = CliRunner().invoke(app, [name, "--help"]).output
        for option in re.findall(r"--[\w-]+", rest):
            assert option in text, f"corral {name} has no {option}"


def test_readmes_python_runs_as_it_stands(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    # The same lines, on a smaller run.
    code = code.replace('epochs=10, eps="8/255"', 'epochs=1, eps="8/255", width=4, progress=False')
    code = code.replace("corral.evaluate(run)", "corral.evaluate(run, n=30, progress=False)")
    code = code.replace(".test.float()", ".test.float()[:20]").replace(".test.labels", ".test.labels[:20]")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert (names["x_adv"] - names["x"]).abs().max() <= 0.1 + 1e-6
    assert names["record"].n == 30
    assert names["found"].verdict in ("pass", "masked")
    assert names["record"].eps == pytest.approx(8 / 255)
    assert isinstance(names["model"], corral.models.Classifier)
