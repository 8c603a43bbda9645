"""Convolutions work with channels last on a CPU: the same values, and gradients in the usual order."""

import pytest
import torch
from torch import nn

from corral.models import VGG, ConvNet, LipschitzNet, ResNet, ResNetCifar, ResNetImageNet, WideResNet
from corral.models.dual_norm import make_dual
from corral.models.layout import channels_last, takes_channels_last
from corral.models.pointwise import Pointwise


@pytest.mark.parametrize("channels", [1, 3])
def test_values_stay_and_channels_come_last(channels):
    x = torch.rand(2, channels, 5, 4)
    found = channels_last(x, nn.Identity())
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
        lambda channels: ResNetImageNet(channels, width=2, depth=18),
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
    monkeypatch.setattr(module, "channels_last", lambda images, network: images)
    usual = backbone(x)
    assert torch.allclose(features, usual, rtol=1e-9, atol=1e-12)
    expected = torch.autograd.grad(usual.square().sum(), [x, *backbone.parameters()])
    for one, other in zip(given, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-10)


def test_a_leaf_keeps_no_hook_and_its_second_derivative():
    x = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        channels_last(x, nn.Identity())
    assert not x._backward_hooks
    assert torch.autograd.gradgradcheck(lambda images: channels_last(images, nn.Identity()).pow(3), (x,))


class Recorder(nn.Module):
    """A user's layer, which notes the strides of its maps."""

    def forward(self, maps):
        self.strides = maps.stride()
        return maps


def test_a_layer_of_unknown_origin_gets_its_maps_in_the_usual_order():
    network, x = ResNet(3, width=4, depth=10), torch.rand(2, 3, 8, 8)
    network.stem[2] = Recorder()
    network(x)
    assert network.stem[2].strides == (256, 64, 8, 1)
    network(x.contiguous(memory_format=torch.channels_last))
    assert network.stem[2].strides == (256, 1, 32, 4)  # the order that was given


class Child(ResNet):
    pass


def dual(network):
    assert make_dual(network)
    return network


def own_forward():
    layer = nn.Conv2d(8, 8, 3)
    layer.forward = lambda maps: maps
    return layer


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (ResNet(3, width=8, depth=10), True),
        (dual(ResNet(3, width=8, depth=10)), True),
        (WideResNet(3, width=2, depth=10), True),
        (LipschitzNet(3, 8, width=8, layer="sll"), True),
        (Pointwise(8, 16, 2), True),
        (nn.Conv2d(8, 16, 1), True),
        (nn.Conv2d(8, 16, 3, 2), True),
        (nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 16, 3, 2)), True),
        (nn.Conv2d(8, 16, 1, 2), False),
        (nn.Conv2d(8, 16, 1, (1, 2)), False),
        (nn.Conv2d(8, 8, 1, 2, groups=8), False),
        (nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 16, 1, 2)), False),
        (nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(8, 16, 1, 2))), False),
        (Recorder(), False),
        (Child(), False),
        (own_forward(), False),
    ],
)
def test_which_networks_take_channels_last(network, expected):
    assert takes_channels_last(network) is expected


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 7, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_pointwise_is_the_strided_convolution(bias, side, stride):
    layer, usual = Pointwise(3, 5, stride, bias=bias).double(), nn.Conv2d(3, 5, 1, stride, bias=bias).double()
    usual.load_state_dict(layer.state_dict())
    x = torch.rand(2, 3, side, side + 1, dtype=torch.float64, requires_grad=True)
    found, expected = layer(x), usual(x)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    coefficients = torch.rand_like(found)
    for one, other in zip(
        torch.autograd.grad(found, [x, *layer.parameters()], coefficients),
        torch.autograd.grad(expected, [x, *usual.parameters()], coefficients),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
    assert torch.autograd.gradgradcheck(lambda images: layer(images).pow(3), (x,))
