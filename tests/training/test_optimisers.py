"""LARS against its formula in both forms."""

import pytest
import torch
from torch import nn

from corral.training.optimisers import make_optimiser
from corral.training.recipes.recipe import TrainingConfig


@pytest.mark.parametrize("name", ["lars", "lars-clipped"])
@pytest.mark.parametrize("size", [1.0, 1e-3])  # of gradients: small ones are where the clip matters
def test_lars_is_its_formula(name, size):
    """v = m v + rate r (g + b w), w -= v, r = trust |w| / (|g| + b |w|).

    Clipped: v = m v + r (g + b w), w -= rate v, r = min(that / rate, 1), and biases plain.
    """
    layer = nn.Linear(4, 3).double()
    config = TrainingConfig(optimiser=name, learning_rate=0.3, momentum=0.8, trust=0.02)
    groups = [{"params": list(layer.parameters()), "lr": 0.3, "weight_decay": 0.01}]
    optimiser = make_optimiser(groups, config)
    tensors = [layer.weight.detach().clone(), layer.bias.detach().clone()]
    moments = [torch.zeros_like(tensor) for tensor in tensors]
    generator, clipped = torch.Generator().manual_seed(0), []
    for step in range(4):
        rate = optimiser.param_groups[0]["lr"] = 0.3 / (step + 1)
        gradients = [size * torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in tensors]
        layer.weight.grad, layer.bias.grad = (gradient.clone() for gradient in gradients)
        optimiser.step()
        for place, (tensor, gradient) in enumerate(zip(tensors, gradients, strict=True)):
            ratio = 0.02 * tensor.norm() / (gradient.norm() + 0.01 * tensor.norm())
            scaled = ratio * (gradient + 0.01 * tensor)
            if name == "lars-clipped":
                clipped.append(bool(ratio > rate))
                scaled = gradient if place == 1 else min(ratio / rate, 1) * (gradient + 0.01 * tensor)
            inside, outside = (1, rate) if name == "lars-clipped" else (rate, 1)
            moments[place] = 0.8 * moments[place] + inside * scaled
            tensors[place] = tensor - outside * moments[place]
    torch.testing.assert_close(layer.weight.detach(), tensors[0])
    torch.testing.assert_close(layer.bias.detach(), tensors[1])
    assert name == "lars" or any(clipped) == (size < 1)


@pytest.mark.parametrize("name", ["lars", "lars-clipped"])
def test_lars_moves_zeros_and_stays_finite_at_rate_zero(name):
    weight, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimiser = make_optimiser(
        [{"params": [weight, still], "lr": 0.5, "weight_decay": 0.0}],
        TrainingConfig(optimiser=name, learning_rate=0.5, momentum=0.0),
    )
    weight.grad, still.grad = torch.full((2, 2), 2.0), torch.zeros(2, 2)
    optimiser.step()
    assert torch.equal(weight.detach(), torch.full((2, 2), -1.0))  # plain SGD
    assert torch.equal(still.detach(), torch.ones(2, 2))
    optimiser.param_groups[0]["lr"] = 0.0  # the first step of a warm-up
    optimiser.step()
    assert torch.equal(weight.detach(), torch.full((2, 2), -1.0))
    assert all(bool(state["velocity"].isfinite().all()) for state in optimiser.state.values())


def test_lars_is_continued_from_its_state():
    def run(parameter, optimiser, steps):
        for step in steps:
            parameter.grad = torch.full((3, 2), float(step)).cumsum(0)
            optimiser.step()

    def begun():
        parameter = nn.Parameter(torch.arange(6.0).view(3, 2))
        config = TrainingConfig(optimiser="lars", learning_rate=2.0)
        return parameter, make_optimiser([{"params": [parameter], "lr": 2.0, "weight_decay": 0.1}], config)

    whole, cut = begun(), begun()
    run(*whole, range(1, 7))
    run(*cut, range(1, 4))
    again = begun()
    with torch.no_grad():
        again[0].copy_(cut[0])
    again[1].load_state_dict(cut[1].state_dict())
    run(*again, range(4, 7))
    assert torch.equal(again[0], whole[0])
