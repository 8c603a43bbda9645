"""The table of verdicts: models whose right answer is known, and what must give the masked ones away."""

import pytest
from tests.calibration.models import EPS, MODELS, images

from corral.evaluation.diagnostics import diagnose

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
    accuracy = (model(x).argmax(1) == y).double().mean()
    assert accuracy >= 0.9, f"{name} did not train, its verdict means nothing: {accuracy}"
    diagnosis = diagnose(model, x, y, eps=EPS, progress=False)
    masked = {finding.name for finding in diagnosis.findings if finding.verdict == "masked"}
    assert diagnosis.verdict == right, masked
    assert masked >= CAUGHT_BY.get(name, set())
    assert all(finding.remedy for finding in diagnosis.findings if finding.verdict in ("masked", "note"))
