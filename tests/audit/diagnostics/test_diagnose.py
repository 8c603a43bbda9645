"""A diagnosis as a whole: nothing dropped, nothing left changed, the same again under a seed."""

import time

import pytest
import torch
from pydantic import ValidationError
from tests.audit.diagnostics.models import After, Before, batch
from torch import nn

from corral.audit.diagnostics import Diagnosis, Finding, diagnose
from corral.audit.diagnostics.diagnose import CHECKS

NAMES = [check.name for check in CHECKS]


def run(model, x, y, **options):
    return diagnose(model, x, y, **({"eps": 0.05, "progress": False} | options))


def noisy(outputs):
    return outputs + 0.3 * torch.randn_like(outputs)


def without_seconds(diagnosis):
    return [finding.model_copy(update={"seconds": 0.0}) for finding in diagnosis.findings]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_linear_model_passes_with_every_check_measured(norm):
    found = run(*batch(), norm=norm, eps=0.05 if norm == "Linf" else 0.15)
    assert found.verdict == "pass"
    assert [finding.name for finding in found.findings] == NAMES
    assert {finding.verdict for finding in found.findings} == {"ok"}
    assert Diagnosis.model_validate_json(found.model_dump_json()) == found


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_scripted_model_is_diagnosed_like_its_source():
    inner, x, y = batch(n=30)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.2), inner)
    y = model.eval()(x).argmax(1)
    model.train()
    scripted = run(torch.jit.script(model), x, y)
    assert without_seconds(scripted) == without_seconds(run(model, x, y))
    assert scripted.findings[0].value == 2


def test_a_diagnosis_is_masked_by_a_single_finding():
    common = {"title": "", "value": 0.0, "explanation": "", "remedy": "", "n": 1, "seconds": 0.0}
    fine, bad = Finding(name="a", verdict="note", **common), Finding(name="b", verdict="masked", **common)
    assert Diagnosis(findings=(fine,)).verdict == "pass"
    assert Diagnosis(findings=(fine, bad)).verdict == "masked"
    with pytest.raises(ValidationError):
        fine.verdict = "ok"


def test_a_diagnosis_repeats_under_its_seed_even_of_a_random_model():
    model, x, y = batch(n=30)
    random = After(model, noisy)
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first = run(random, x, y, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(4)
    assert without_seconds(run(random, x, y, seed=1)) == without_seconds(first)
    assert first.verdict == "masked"


def test_nothing_of_the_model_is_changed():
    inner, x, y = batch(n=30)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.2), inner)
    model[1].eval()
    model[2][1].weight.requires_grad_(False)
    flags = [module.training for module in model.modules()]
    wants = [parameter.requires_grad for parameter in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = x.clone()
    run(model, x, y)
    assert [module.training for module in model.modules()] == flags
    assert [parameter.requires_grad for parameter in model.parameters()] == wants
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(x, images)


def test_a_deadline_that_is_over_skips_every_check_and_drops_none():
    found = run(*batch(), deadline=time.monotonic() - 1)
    assert [finding.name for finding in found.findings] == NAMES
    assert {finding.verdict for finding in found.findings} == {"skipped"}
    assert all("time was up" in finding.explanation and finding.value is None for finding in found.findings)
    assert found.verdict == "not measured"


def test_a_check_that_would_not_be_done_in_time_is_not_begun():
    model, x, y = batch()

    def slow(x):
        time.sleep(0.05)
        return x

    begun = time.monotonic()
    found = run(Before(model, slow), x, y, deadline=begun + 3)
    assert time.monotonic() - begun < 10
    verdicts = {finding.name: finding for finding in found.findings}
    assert verdicts["randomness"].verdict == verdicts["zero_gradients"].verdict == "ok"
    assert verdicts["black_box"].verdict == "skipped"
    assert "left" in verdicts["black_box"].explanation


def test_a_model_that_gets_nothing_right_is_asked_what_it_can_be():
    model, x, y = batch()
    found = {finding.name: finding for finding in run(model, x, 1 - y).findings}
    assert found["randomness"].verdict == found["bounded_outputs"].verdict == "ok"
    assert found["black_box"].verdict == found["zero_gradients"].verdict == "skipped"
    assert "none of the 60 images" in found["eps"].explanation
    assert "labels" in found["eps"].remedy


def test_outputs_that_break_down_beside_the_images_are_no_robustness():
    model, x, y = batch()

    def fragile(x):
        return torch.where(x > 0.72, torch.nan, x)

    found = {finding.name: finding for finding in run(Before(model, fragile), x, y).findings}
    assert found["one_step"].verdict == "masked"
    assert "not finite" in found["one_step"].explanation


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": 0.0}, "eps > 0"),
        ({"eps": 8}, "8/255"),
        ({"norm": "L1"}, "norm"),
        ({"x": torch.full((60, 1, 3, 4), 2.0)}, "pixels"),
        ({"y": torch.full((60,), 7)}, "label 7"),
    ],
)
def test_impossible_arguments_are_refused(options, words):
    model, x, y = batch()
    with pytest.raises(ValueError, match=words):
        run(model, options.pop("x", x), options.pop("y", y), **options)


def test_no_images_are_refused():
    model, x, y = batch()
    with pytest.raises(ValueError, match="0 images"):
        run(model, x[:0], y[:0])
