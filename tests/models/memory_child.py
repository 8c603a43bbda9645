"""Networks in the layouts that training and attacks use, in a process that may die: run by test_memory.py.

One line for each network that came through, with its largest relative difference from float64 in NCHW.
"""

import contextlib
import copy
import sys
from unittest import mock

import torch
from torch import nn
from torch.nn import functional

from corral.attacks.state import attacked
from corral.models import BACKBONES, SLL, Backbone, BackboneSpec, HalfAbs, Orthogonal, ResNet
from corral.models.backbones import Embedded, build_backbone
from corral.models.layout import channels_last
from corral.models.pointwise import Pointwise

# The options under which each backbone that ships is narrow, with the strided layers that it has at any width.
NARROW = {
    "mlp": [{"hidden": [8], "features": 4}],
    "convnet": [{"width": 1, "features": 4}, {"width": 4, "features": 4}],
    "resnet": [
        *({"width": width, "depth": 10} for width in (1, 3, 4, 8, 16)),
        {"width": 8, "depth": 10, "features": 4},
    ],
    "resnet-cifar": [{"width": width, "depth": 8} for width in (1, 4, 8)],
    # Of 50 layers on 32 pixels, in whatever layout, rounding alone is past the bound.
    "resnet-imagenet": [{"width": width, "depth": 18} for width in (1, 4)],
    "vgg": [{"width": 1, "depth": 11}, {"width": 4, "depth": 11}],
    "wideresnet": [{"width": 1, "depth": 10}],
    "lipschitz": [
        {"width": 8, "features": 4},
        {"width": 8, "features": 4, "layer": "shift"},
        {"width": 8, "features": 4, "layer": "sll"},
    ],
}


def tensors_of(network, x, wanted):
    """The output, and the gradients of the sum of its sines (its square would not tell what an isometry did)."""
    out = network(x)
    return [out, *torch.autograd.grad(out.sin().sum(), wanted, materialize_grads=True)]


@contextlib.contextmanager
def smooth():
    """Softplus for ReLU, averages for maxima, a rounded absolute value: at a kink rounding decides the gradient."""
    layers = {
        "relu": lambda x, inplace=False: functional.softplus(x),
        "max_pool2d": lambda x, kernel, stride, padding, dilation, ceil_mode, return_indices: functional.avg_pool2d(
            x, kernel, stride, padding, ceil_mode
        ),
    }
    with mock.patch.multiple("torch.nn.functional", **layers), mock.patch.object(HalfAbs, "forward", rounded):
        yield


def rounded(module, x):
    """`HalfAbs` with |x| as sqrt(x² + 0.01)."""
    half = x.shape[1] // 2
    return torch.cat([(x[:, :half].square() + 0.01).sqrt(), x[:, half:]], 1)


def outputs(network, x):
    """Outputs and gradients of a step of training, to images and parameters, and of a step of an attack, to images.

    BatchNorm's statistics are those of a step before: of two images a batch's own would enlarge rounding.
    """
    wanted = [x, *network.parameters()]
    assert all(bool(tensor.isfinite().all()) for tensor in tensors_of(network.train(), x, wanted))
    for module in network.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)
    with smooth():
        found = tensors_of(network, x, wanted)
        with attacked(network):
            return found + tensors_of(network, x, [x])


def compared(name, network, x):
    """Print the largest relative difference between a network in its own layout and its twin in NCHW and float64."""
    twin = copy.deepcopy(network).double()
    found = outputs(network, x.requires_grad_())
    with mock.patch("corral.models.layout.takes_channels_last", return_value=False):
        expected = outputs(twin, x.detach().double().contiguous().requires_grad_())
    pairs = zip(found, expected, strict=True)
    worst = max(float((one - other).detach().norm() / (other.detach().norm() + 1e-9)) for one, other in pairs)
    print(f"{worst:.1e} {name} {tuple(x.shape)}", flush=True)


def images(*shape):
    """Random images with channels last."""
    return channels_last(torch.rand(shape), nn.Identity())


def layers():
    """The layers that ship for maps, on images with channels last."""
    for channels in (1, 3, 4, 8, 12, 16, 24):
        for side in (32, 48, 63, 96):
            for stride in (1, 2, 3):
                layer = Pointwise(channels, 16, stride, bias=True)
                compared(f"pointwise stride {stride}", layer, images(2, channels, side, side))
                if channels == 8:
                    lying = copy.deepcopy(layer).to(memory_format=torch.channels_last)
                    compared("pointwise, kernel last", lying, torch.rand(2, channels, side, side))
    for channels in (4, 8):
        compared("sll", SLL(channels, 8, kernel=3), images(2, channels, 64, 64))
        compared("orthogonal", Orthogonal(channels, channels), images(2, channels, 64, 64))


def backbones():
    """The backbones that ship."""
    for name in BACKBONES:
        for options in NARROW[name]:
            spec = BackboneSpec.model_validate({"name": name, **options})
            for channels, side in ((3, 32), (1, 64), (3, 96)):
                network = build_backbone(name, (channels, side, side), spec.options())
                compared(f"{name} {options}", network, torch.rand(2, channels, side, side))


class Own(Backbone):
    """A user's backbone with the layer that breaks with channels last, around one of ours or none."""

    def __init__(self, inner=None):
        super().__init__()
        self.features_dim = 16
        self.inner = inner
        self.conv = nn.Conv2d(8 if inner else 3, 16, 1, 2)

    def forward(self, x):
        maps = x if self.inner is None else self.inner.stem(x)
        return self.conv(maps).relu().mean((2, 3))


class Child(ResNet):
    """A user's subclass: `forward` is ours, a layer is not."""

    def __init__(self):
        super().__init__(width=8, depth=10)
        self.blocks[1].shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))


class Strided(nn.Module):
    """A user's layer, which hides what it computes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(16, 8, 1, 1))

    def forward(self, x):
        return functional.conv2d(x, self.weight, stride=2)


def changed(layer):
    """A backbone of ours into which a user put a layer."""
    network = ResNet(width=8, depth=10)
    network.blocks[1].shortcut = layer
    return network


def users():
    """Users' networks: whatever is inside, nothing may bring it into the order that kills it."""
    mine = ResNet(width=8, depth=10)
    for name, network in {
        "own": Own(),
        "own around ours": Own(mine),
        "embedded": Embedded(Own(), 4),
        "embedded around ours": Embedded(Own(mine), 4),
        "child": Child(),
        "changed": changed(nn.Conv2d(8, 16, 1, 2)),
        "changed, unequal strides": changed(nn.Sequential(nn.Conv2d(8, 16, 1, (2, 1)), nn.MaxPool2d((1, 2)))),
        "hidden": changed(Strided()),
        "plain": nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 1, 2), nn.Flatten()),
    }.items():
        compared(name, network, torch.rand(2, 3, 64, 64))
        # An attack on weights, or on both: the layout of an attack, with gradients of the weights.
        with attacked(network):
            for parameter in network.parameters():
                parameter.requires_grad_()
            network(torch.rand(2, 3, 64, 64)).square().sum().backward()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    {"layers": layers, "backbones": backbones, "users": users}[sys.argv[1]]()
