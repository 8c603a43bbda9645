"""Convolutions work with channels last on a CPU: the same values, and gradients in the usual order."""

import pytest
import torch

from corral.models import VGG, ConvNet, ResNet, ResNetCifar, WideResNet
from corral.models.layout import channels_last


@pytest.mark.parametrize("channels", [1, 3])
def test_values_stay_and_channels_come_last(channels):
    x = torch.rand(2, channels, 5, 4)
    found = channels_last(x)
    assert torch.equal(found, x)
    assert found.stride() == (channels * 20, 1, 4 * channels, channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda channels: ConvNet(channels, 8, width=4),
        lambda channels: ResNet(channels, width=4, depth=10),
        lambda channels: VGG(channels, width=4, depth=11),
        lambda channels: WideResNet(channels, width=1, depth=10),
        lambda channels: ResNetCifar(channels, width=4, depth=8),
    ],
)
def test_features_and_gradients_are_those_of_the_usual_order(make, channels, monkeypatch):
    torch.manual_seed(0)
    backbone = make(channels).double()
    x = torch.rand(6, channels, 8, 8, dtype=torch.float64, requires_grad=True)
    features = backbone(x)
    given = torch.autograd.grad(features.square().sum(), [x, *backbone.parameters()])
    assert given[0].is_contiguous()  # attack libraries flatten it by `view`
    module = __import__(backbone.__module__, fromlist=["channels_last"])
    monkeypatch.setattr(module, "channels_last", lambda images: images)
    usual = backbone(x)
    assert torch.allclose(features, usual, rtol=1e-9, atol=1e-12)
    expected = torch.autograd.grad(usual.square().sum(), [x, *backbone.parameters()])
    for one, other in zip(given, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-10)


def test_a_leaf_keeps_no_hook_and_its_second_derivative():
    x = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        channels_last(x)
    assert not x._backward_hooks
    assert torch.autograd.gradgradcheck(lambda images: channels_last(images).pow(3), (x,))
