"""LARS against its formula, the rising rate, and the package that is missing."""

import builtins

import pytest
import torch
from torch import nn

from corral.errors import CorralError
from corral.training.loop import schedule
from corral.training.optimisers import make_optimiser
from corral.training.recipe import TrainingConfig


def test_lars_is_you_et_al_s_formula():
    """Weights: SGD with momentum on trust |w| / (|g| + b |w|) (g + b w); biases: plain SGD with momentum."""
    layer = nn.Linear(4, 3).double()
    config = TrainingConfig(optimiser="lars", learning_rate=0.3, momentum=0.8, trust=0.02)
    groups = [{"params": list(layer.parameters()), "lr": 0.3, "weight_decay": 0.01}]
    optimiser = make_optimiser(groups, config)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    moments = torch.zeros_like(weight), torch.zeros_like(bias)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        gradients = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in (weight, bias)]
        layer.weight.grad, layer.bias.grad = (gradient.clone() for gradient in gradients)
        optimiser.step()
        ratio = 0.02 * weight.norm() / (gradients[0].norm() + 0.01 * weight.norm())
        moments = 0.8 * moments[0] + ratio * (gradients[0] + 0.01 * weight), 0.8 * moments[1] + gradients[1]
        weight, bias = weight - 0.3 * moments[0], bias - 0.3 * moments[1]
    torch.testing.assert_close(layer.weight.detach(), weight)
    torch.testing.assert_close(layer.bias.detach(), bias)


@pytest.mark.parametrize(("epochs", "factor"), [(0.0, 0.0), (1.0, 0.25), (4.0, 1.0), (12.0, 0.5), (20.0, 0.0)])
def test_the_rate_rises_in_a_line_and_falls_by_a_cosine(epochs, factor):
    config = TrainingConfig(epochs=20, schedule="cosine", warm_up=4)
    assert schedule(config, epochs) == pytest.approx(factor, abs=1e-12)


def test_lars_without_its_package_names_the_remedy(monkeypatch):
    real = builtins.__import__

    def without(name, *given, **more):
        if name == "pytorch_optimizer":
            raise ImportError(name)
        return real(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CorralError, match=r"pip install 'corral\[contrastive\]'"):
        make_optimiser([{"params": [nn.Parameter(torch.ones(1))], "lr": 1.0}], TrainingConfig(optimiser="lars"))
