"""Backbones: published parameter counts, shapes, determinism in eval mode, finite gradients."""

import pytest
import torch

from corral.models import MLP, VGG, Classifier, ConvNet, LinearHead, ResNet, ResNetCifar, ResNetImageNet, WideResNet


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        (lambda: ResNet(), 11_173_962),
        (lambda: ResNet(depth=34), 21_282_122),
        (lambda: WideResNet(depth=28, width=10), 36_479_194),
        (lambda: WideResNet(depth=34, width=10), 46_160_474),
        (lambda: ResNetCifar(depth=20), 269_722),
        (lambda: ResNetCifar(), 464_154),
        (lambda: ResNetCifar(depth=110), 1_727_962),
    ],
    ids=["ResNet-18", "ResNet-34", "WRN-28-10", "WRN-34-10", "ResNet-20", "ResNet-32", "ResNet-110"],
)
def test_parameter_counts_are_the_published_ones(backbone, expected):
    with torch.device("meta"):
        body = backbone()
        assert count(body) + count(LinearHead(body.features_dim, 10)) == expected


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_imagenet_resnets_have_torchvision_s_tensors(depth, expected):
    """Its counts with 1,000 classes, its names, and maps of 1/32 of the sides."""
    with torch.device("meta"):
        body = ResNetImageNet(depth=depth).eval()
        assert count(body) + count(LinearHead(body.features_dim, 1000)) == expected
        assert body(torch.rand(2, 3, 224, 224)).shape == (2, 2048 if depth >= 50 else 512)
        seen = []
        body.layer4.register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape[2:])))
        body(torch.rand(2, 3, 224, 224))
    assert seen == [(7, 7)]
    names = body.state_dict()
    last = "3" if depth >= 50 else "2"
    known = {
        "conv1.weight",
        "bn1.running_mean",
        "layer2.0.downsample.0.weight",
        f"layer4.1.bn{last}.num_batches_tracked",
    }
    assert known <= names.keys()
    assert names["conv1.weight"].shape == (64, 3, 7, 7)
    assert ("layer1.0.downsample.0.weight" in names) == (depth >= 50)


def test_the_narrow_resnet_s_shortcuts_drop_pixels_and_add_channels_of_zeros():
    torch.manual_seed(0)
    net = ResNetCifar(1, width=2, depth=14)
    assert [tuple(weight.shape[:2]) for weight in net.parameters() if weight.dim() == 4] == [
        (2, 1), (2, 2), (2, 2), (2, 2), (2, 2), (4, 2), (4, 4), (4, 4), (4, 4), (8, 4), (8, 8), (8, 8), (8, 8),
    ]  # fmt: skip
    block, x = net.blocks[2].eval(), torch.rand(3, 2, 7, 8)
    torch.nn.init.zeros_(block.bn2.weight)  # the branch gives nothing: what is left is the shortcut
    found = block(x)
    assert found.shape == (3, 4, 4, 4)
    assert torch.equal(found[:, :2], x[:, :, ::2, ::2])
    assert not found[:, 2:].any()


def test_vgg_convolutions_are_those_of_the_paper():
    """VGG-16's 13 convolutions have 14,710,464 weights; BatchNorm stands where their 4,224 biases stood."""
    with torch.device("meta"):
        body = VGG()
    weights = [parameter for parameter in body.parameters() if parameter.dim() == 4]
    assert len(weights) == 13
    assert sum(weight.numel() for weight in weights) == 14_710_464
    assert count(body) == 14_710_464 + 2 * 4_224


SMALL = [
    (lambda c, s: MLP(c * s * s, (16, 8), 5), 5),
    (lambda c, s: MLP(c * s * s, (), 5), 5),
    (lambda c, s: ConvNet(c, s, width=4, features=7), 7),
    (lambda c, s: ResNet(c, width=4, depth=10), 32),
    (lambda c, s: VGG(c, width=2, depth=11), 16),
    (lambda c, s: WideResNet(c, depth=10, width=1), 64),
    (lambda c, s: ResNetCifar(c, depth=8, width=2), 8),
    (lambda c, s: ResNetImageNet(c, depth=50, width=1), 32),
]


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("build", "features"),
    SMALL,
    ids=["mlp", "linear", "convnet", "resnet", "vgg", "wrn", "resnet-cifar", "resnet-imagenet"],
)
def test_shapes_determinism_and_gradients(build, features, channels, size):
    torch.manual_seed(0)
    backbone = build(channels, size)
    x = torch.rand(3, channels, size, size, requires_grad=True)
    backbone(x)
    backbone.eval()
    found = backbone(x)
    assert found.shape == (3, features)
    assert backbone.features_dim == features
    # In eval mode an example's features depend on nothing else, the rest of the batch included.
    assert torch.equal(found, backbone(x))
    torch.testing.assert_close(backbone(x[1:2]), found[1:2], rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in backbone.parameters())


@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("build", [lambda r: MLP(64, (8,), 32, rectify=r), lambda r: ConvNet(1, 8, 4, 32, rectify=r)])
def test_rectified_features_are_not_negative(build, rectify):
    torch.manual_seed(0)
    assert bool((build(rectify)(torch.rand(20, 1, 8, 8)) >= 0).all()) is rectify


def test_convnet_takes_oblong_images():
    assert ConvNet(1, (8, 12), width=2, features=3)(torch.rand(2, 1, 8, 12)).shape == (2, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConvNet(1, 3), "at least 4×4"),
        (lambda: ResNet(depth=17), "resnet depth must be one of 10, 18, 34, found 17"),
        (lambda: VGG(depth=12), "vgg depth must be one of 11, 13, 16, 19, found 12"),
        (lambda: WideResNet(depth=27), "wideresnet depth must be 6 n"),
        (lambda: WideResNet(depth=4), "wideresnet depth must be 6 n"),
        (lambda: ResNetCifar(depth=34), "resnet-cifar depth must be 6 n . 2 .*, found 34"),
        (lambda: ResNetCifar(depth=2), "resnet-cifar depth must be 6 n"),
    ],
)
def test_impossible_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_channels_last_gives_the_same_logits():
    torch.manual_seed(0)
    model = Classifier(ResNet(width=4, depth=10), LinearHead(32, 4), (0.5,) * 3, (0.2,) * 3).eval()
    x = torch.rand(2, 3, 16, 16)
    expected = model(x)
    found = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
