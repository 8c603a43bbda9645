"""The table of verdicts: models whose right answer is known, and what must give the masked ones away."""

import json

import pytest
from tests.calibration.models import EPS, MODELS, AlwaysDropping, images
from typer.testing import CliRunner

from corral.audit.diagnostics import diagnose
from corral.cli import app

# What each masked model must be caught by; others may speak as well.
CAUGHT_BY = {
    "published-clustr": {"bounded_outputs", "other_objective"},
    "mat-so-only": {"gradient_underflow", "random_directions", "unbounded", "other_objective", "black_box"},
    "quantised": {"zero_gradients", "random_directions", "unbounded", "black_box"},
    "dropout-on": {"randomness", "random_directions", "black_box"},
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_gets_its_right_verdict(name):
    make, right = MODELS[name]
    x, y = images(100)
    model = make()
    # The model with dropout answers at random: whether it trained shows without.
    judged = model.model if isinstance(model, AlwaysDropping) else model
    accuracy = (judged(x).argmax(1) == y).double().mean()
    assert accuracy >= 0.9, f"{name} did not train, its verdict means nothing: {accuracy}"
    diagnosis = diagnose(model, x, y, eps=EPS, progress=False)
    masked = {finding.name for finding in diagnosis.findings if finding.verdict == "masked"}
    assert diagnosis.verdict == right, masked
    assert masked >= CAUGHT_BY.get(name, set())
    assert all(finding.remedy for finding in diagnosis.findings if finding.verdict in ("masked", "note"))


MAKERS = {name: make.__name__ for name, (make, _) in list(MODELS.items())[:6]}


# One of either exit code here; the verdicts of all are in the test above.
HERE = ("nominal", "published-clustr")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in HERE else [pytest.mark.thorough]) for name in MAKERS]
)
def test_the_command_gives_every_model_its_right_exit_code(name, tmp_path):
    """The same six through `corral audit`, as its user meets them."""
    (tmp_path / "calibrated.py").write_text(
        f"from tests.calibration.models import {MAKERS[name]}\n\n\ndef load():\n    return {MAKERS[name]}()\n"
    )
    target, page = f"{tmp_path / 'calibrated.py'}:load", str(tmp_path / "audit.html")
    options = ["--data", "digits", "--eps", str(EPS), "--n", "60", "--minutes", "2", "--out", page, "--quiet"]
    result = CliRunner().invoke(app, ["audit", target, *options])
    assert result.exit_code == {"pass": 0, "masked": 3}[MODELS[name][1]], result.output
    record = json.loads((tmp_path / "audit.json").read_text())
    assert record["verdict"] == MODELS[name][1]
    assert (tmp_path / "audit.html").is_file()
