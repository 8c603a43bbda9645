"""Small models whose answers are known exactly."""

import torch
from torch import nn


def batch(n=60, d=12, seed=0):
    """Images in [0.3, 0.7], where no eps below 0.3 meets the box, and a two-class linear model that labels them."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 + 0.4 * torch.rand(n, 1, 3, d // 3, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(d, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, d, generator=generator))
        model[1].bias.copy_(-model[1].weight @ torch.full((d,), 0.5))
    return model.eval(), x, model(x).argmax(1)


class After(nn.Module):
    """A model with a function of its outputs."""

    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x):
        return self.function(self.model(x))


class Before(After):
    """A model with a function of its inputs."""

    def forward(self, x):
        return self.model(self.function(x))


class _Liar(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return -gradient


def reversed_gradient(x):
    """The identity, with a gradient that points the wrong way."""
    return _Liar.apply(x)
