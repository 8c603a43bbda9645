"""docs/extending/method.md runs as it stands there, and its MART is MART."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import corral
from corral.attacks.objectives import prepare
from corral.errors import UsageError
from corral.registry import import_plugin
from corral.training import Run, load_model, load_recipe, read_metrics
from corral.training.methods import METHODS, Method

PAGE = Path(__file__).parents[2] / "docs" / "extending" / "method.md"
CODE = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
SMALL = {"data.train": 120, "model.width": 4, "model.features": 8, "training.epochs": 2}


@pytest.fixture
def mart(tmp_path, monkeypatch):
    """The page's file, imported; what it registered is forgotten afterwards."""
    METHODS.names()  # filled before it is copied
    monkeypatch.setattr(METHODS, "_things", dict(METHODS._things))
    monkeypatch.setattr(METHODS, "_places", dict(METHODS._places))
    (tmp_path / "mart.py").write_text(CODE)
    return import_plugin(str(tmp_path / "mart.py"))


def test_the_method_of_the_page_is_trained_and_attacked(extending: Callable[[str], str]) -> None:
    output = extending("extending/method.md")
    assert "runs/mart: " in output
    assert "next: corral --plugin mart.py evaluate runs/mart\n" in output
    assert "next: corral --plugin mart.py evaluate runs/again\n" in output
    assert "adaptive" in output


def test_the_example_has_at_most_forty_lines() -> None:
    assert sum(bool(line.strip()) for line in CODE.splitlines()) <= 40


def test_it_is_the_papers_loss_by_hand(mart) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, adversarial = (3 * torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.tensor([0, 1, 2, 3, 1, 0])
    expected = []
    for i, label in enumerate(y.tolist()):
        p, q = ([math.exp(v) for v in logits[i].tolist()] for logits in (clean, adversarial))
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        rival = max(v for k, v in enumerate(q) if k != label)
        boosted = -math.log(q[label]) - math.log(1.0001 - rival)
        divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        expected.append(boosted + 5 * divergence * (1 - p[label]))
    assert mart.mart(clean, adversarial, y, 5.0).tolist() == pytest.approx(expected, rel=1e-9)


def test_by_name_it_is_the_preset_with_the_method_s_defaults(mart) -> None:
    at = load_recipe("at", data="digits")
    found = load_recipe("my-mart", data="digits", overrides={"weight": 2.0})
    assert (found.model, found.threat, found.training, found.data) == (at.model, at.threat, at.training, at.data)
    assert (found.method.weight, found.method.inner.steps, found.name) == (2.0, 10, "my-mart")
    assert load_recipe("my-mart", data="cifar10").model.backbone == "resnet"
    assert load_recipe("my-mart", data="folder:/my/images").preset == "images"
    with pytest.raises(UsageError, match="recipe 'my-mart' has no settings for stl10"):
        load_recipe("my-mart", data="stl10")
    with pytest.raises(UsageError, match=r"unknown recipe key 'wieght'; did you mean 'method.weight'"):
        load_recipe("my-mart", data="digits", overrides={"wieght": 2.0})
    with pytest.raises(UsageError, match=r"method.weight: .*number, found 'much'"):
        load_recipe("my-mart", data="digits", overrides={"weight": "much"})


def test_a_run_is_resumed_loaded_and_attacked_by_its_own_loss(mart, tmp_path, monkeypatch) -> None:
    from corral.training import Training

    target, epoch, calls = f"{tmp_path / 'mart.py'}:Mart", Training._epoch, []

    def stopped(self, bar):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return epoch(self, bar)

    whole = corral.train("my-mart", data="digits", out=tmp_path / "whole", progress=False, **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            corral.train(target, data="digits", out=tmp_path / "run", progress=False, **SMALL)
    run = corral.train(target, data="digits", out=tmp_path / "run", resume=True, progress=False, **SMALL)
    assert f'name = "{target}"' in (run / "recipe.toml").read_text()
    assert len(read_metrics(Run(run).metrics_file)) == 2
    for one, two in zip(load_model(run)[0].parameters(), load_model(whole)[0].parameters(), strict=True):
        assert torch.equal(one, two)
    model, recipe = corral.load(run), load_recipe(run)
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    loss = METHODS.find(target).training_objective(recipe.method, recipe.threat)
    values, _ = prepare(loss.objective, model, x, y)(x.flip(3), torch.arange(4))
    assert torch.allclose(values, mart.mart(model(x), model(x.flip(3)), y, 5.0), atol=1e-6)
    names = [attack.name for attack in corral.evaluate(run, protocol="adaptive", n=10, progress=False).attacks]
    assert "mart" in names
    assert corral.evaluate(run, protocol="standard", n=10, progress=False).protocol == "standard"


def test_without_its_loss_a_method_is_attacked_where_none_is_needed(mart, tmp_path) -> None:
    @corral.register
    class Silent(mart.Mart):
        name = "silent"
        training_objective = Method.training_objective

    run = corral.train("silent", data="digits", out=tmp_path / "run", progress=False, **SMALL)
    assert corral.evaluate(run, n=10, progress=False).attacks
    with pytest.raises(UsageError, match="method 'silent' says nothing of the loss it trains on"):
        corral.evaluate(run, protocol="adaptive", n=10, progress=False)


def test_another_process_runs_no_code_of_a_run_folder(mart, tmp_path) -> None:
    run = corral.train(f"{tmp_path / 'mart.py'}:Mart", data="digits", out=tmp_path / "run", progress=False, **SMALL)

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-m", "corral", *arguments, "evaluate", str(run), "--n", "10", "--quiet", "--json"]
        return subprocess.run(call, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    refused = command()
    assert refused.returncode == 2
    assert "is code outside corral" in refused.stderr
    assert json.loads(command("--plugin", str(tmp_path / "mart.py")).stdout)[0]["n"] == 10
