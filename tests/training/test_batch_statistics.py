"""Adversaries inside training that see batch statistics: backbones with BatchNorm."""

import copy

import pytest
import torch
from torch import nn

from corral.attacks.state import attacked
from corral.training import Run, Training, load_recipe


@pytest.mark.parametrize(
    "recipe", ["at", "trades", "mart", "ikl", "corral", "clustr-qtrades", "clustr-qtrades-mse-published", "clustr-adv"]
)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_running_statistics_count_the_training_passes_and_not_the_adversarys(tmp_path, recipe, mode):
    resolved = load_recipe(recipe, overrides={"warm_start.epochs": 0, "data.train": 120, "method.inner.mode": mode})
    resnet = resolved.model.model_copy(update={"backbone": "resnet", "width": 2, "depth": 10, "features": None})
    resolved = resolved.model_copy(update={"model": resnet})
    run = Training(resolved, Run(tmp_path / "run"), torch.device("cpu"), progress=False)
    run.begin(resume=False)
    run.model.train()
    rows = next(iter(run.method.batches()))
    before = copy.deepcopy(run.model.state_dict())
    first = next(module for module in run.model.modules() if isinstance(module, nn.BatchNorm2d))
    counted = int(first.num_batches_tracked)
    loss, _ = run.method.loss(*run._batch(rows), rows)
    # at makes one pass with statistics (adversarial), the others two (clean and adversarial).
    assert int(first.num_batches_tracked) - counted == (1 if recipe == "at" else 2)
    assert not torch.equal(first.running_mean, before["backbone.stem.1.running_mean"])
    loss.backward()
    gradients = [p.grad for p in run.model.backbone.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)


def test_a_graph_built_before_an_attack_in_train_mode_can_still_be_differentiated():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).train()
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    loss = model(x).square().sum()
    held = model[1].running_mean
    with attacked(model, "train"):
        model(x + 1)
    assert model[1].running_mean is held
    loss.backward()
    twin = copy.deepcopy(model)
    twin.zero_grad()
    twin(x).square().sum().backward()
    assert torch.allclose(model[0].weight.grad, twin[0].weight.grad)
