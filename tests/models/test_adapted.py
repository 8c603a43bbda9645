"""Networks of others as backbones: where their features are, whichever library's form they have."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from corral.models import Classifier, LinearHead
from corral.models.backbones import Adapted, adapt

SHAPE = (3, 8, 8)
IMAGES = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))


class Stem(nn.Module):
    """What the stand-ins share: maps (N, 6, 4, 4) of images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.layer4 = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())

    def maps(self, x: Tensor) -> Tensor:
        return self.layer4(self.conv(x).relu())


class OfTorchvision(Stem):
    """ResNet: maps, pooled and flattened, through `fc`."""

    def __init__(self) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.avgpool(self.maps(x)), 1))


class ConvNeXt(Stem):
    """torchvision's ConvNeXt: a classifier of several layers, the last one linear."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.Flatten(1), nn.LayerNorm(6), nn.Linear(6, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.maps(x).mean((2, 3), keepdim=True))


class OfTimm(Stem):
    """timm: `forward_features`, `forward_head`, `reset_classifier`."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 10)

    def reset_classifier(self, num_classes: int) -> None:
        self.head = nn.Identity() if num_classes == 0 else nn.Linear(6, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.maps(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x).mean((2, 3)))


class Trunk(Stem):
    """Only `forward_features` beside a forward that is of no use here."""

    def forward_features(self, x: Tensor) -> Tensor:
        return self.maps(x)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("a head is missing")


class ViT(Stem):
    """Hugging Face's ViTModel: an object with tokens and a pooled token."""

    def __init__(self, pooled: bool = True) -> None:
        super().__init__()
        self.pooled = pooled

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        tokens = self.maps(pixel_values).flatten(2).transpose(1, 2)
        return SimpleNamespace(last_hidden_state=tokens, pooler_output=tokens[:, 0] if self.pooled else None)


class OfHuggingFace(Stem):
    """...ForImageClassification: a dictionary with logits of `classifier`."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(6, 10)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.maps(pixel_values).mean((2, 3)))}


class Named(Stem):
    """DINOv2's forward_features: a dictionary, the class token by its name."""

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        return {"x_norm_clstoken": self.maps(x)[:, :, 0, 0], "x_norm_patchtokens": self.maps(x).flatten(2)}


def mean_of_maps(net: nn.Module) -> Tensor:
    return net.maps(IMAGES).mean((2, 3))


@pytest.mark.parametrize(
    ("net", "expected", "words"),
    [
        (OfTorchvision(), mean_of_maps, "the input of its classifier 'fc'"),
        (ConvNeXt(), lambda net: net.classifier[1](mean_of_maps(net)), "the input of its classifier 'classifier.2'"),
        (OfTimm(), mean_of_maps, "the input of its classifier"),
        (Trunk(), mean_of_maps, "what its forward_features returns, averaged over pixels"),
        (ViT(), lambda net: net.maps(IMAGES)[:, :, 0, 0], "what it returns, pooler_output"),
        (ViT(pooled=False), mean_of_maps, "what it returns, last_hidden_state, averaged over tokens"),
        (OfHuggingFace(), mean_of_maps, "the input of its classifier 'classifier', logits"),
        (Named(), lambda net: net.maps(IMAGES)[:, :, 0, 0], "what its forward_features returns, x_norm_clstoken"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 6)), lambda net: net(IMAGES), "what it returns"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, nn.Module) else None,
)
def test_features_are_where_each_library_has_them(net, expected, words):
    net.eval()
    want, state = expected(copy.deepcopy(net)), torch.get_rng_state()
    found = adapt(net, SHAPE)
    assert torch.equal(torch.get_rng_state(), state)
    assert (found.features_dim, found.features_source) == (6, words)
    assert torch.equal(found(IMAGES), want)
    head = LinearHead(6, 4)
    assert Classifier(found, head, (0.0,) * 3, (1.0,) * 3)(IMAGES).shape == (5, 4)


def test_a_classifier_behind_the_features_is_gone_and_the_rest_is_trained():
    found = adapt(OfTorchvision(), SHAPE)
    assert isinstance(found.fc, nn.Identity)
    found(IMAGES).sum().backward()
    assert all(parameter.grad is not None for parameter in found.parameters())


def test_a_linear_layer_that_is_not_the_last_one_is_no_classifier():
    class Projected(OfTorchvision):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.normalize(super().forward(x))

    net = Projected().eval()
    want = net(IMAGES)
    assert torch.equal(adapt(net, SHAPE)(IMAGES), want)
    assert net.features_dim == 10


@pytest.mark.parametrize("layer", ["layer4", "layer4.0", "conv", "fc"])
def test_a_named_layer_gives_its_output_and_nothing_behind_it_is_computed(layer):
    net = OfTorchvision().eval()
    given: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda _m, _i, output: given.append(output))
    net(IMAGES)
    handle.remove()
    want = given[0].mean((2, 3)) if given[0].dim() == 4 else given[0]
    found = adapt(net, SHAPE, layer)
    behind: list[str] = []
    net.fc.register_forward_hook(lambda *_: behind.append("fc"))
    assert torch.equal(found(IMAGES), want)
    assert behind == (["fc"] if layer == "fc" else [])
    assert found.features_dim == want.shape[1]


def test_a_copy_in_another_precision_takes_its_own_layer():
    found = adapt(OfTorchvision().eval(), SHAPE, "layer4")
    twin = copy.deepcopy(found).double()
    exact = twin(IMAGES.double())
    assert exact.dtype == torch.float64
    assert torch.allclose(exact.float(), found(IMAGES), atol=1e-5)
    assert not found.net.layer4._forward_hooks


def test_a_layer_of_a_network_that_catches_errors_is_reached():
    class Careful(OfTorchvision):
        def forward(self, x: Tensor) -> Tensor:
            try:
                return super().forward(x)
            except Exception:
                return torch.zeros(len(x), 10)

    assert adapt(Careful(), SHAPE, "layer4").features_dim == 6


@pytest.mark.parametrize(
    ("net", "layer", "message"),
    [
        (
            OfTorchvision(),
            "layer5",
            r"no layer 'layer5'; did you mean 'layer4'\?; its parts: conv, layer4, avgpool, fc",
        ),
        (nn.ModuleDict({"a": nn.Linear(3, 3)}), "a", "it fails on an image of"),
        (nn.Linear(7, 3), None, r"it fails on an image of \(3, 8, 8\) \(C, H, W\): RuntimeError: mat1 and mat2"),
        (nn.Conv2d(3, 2, 8), "", "it has no layer ''"),
        (nn.Sequential(nn.Flatten(0)), None, r"gives a Tensor of shape \(192,\), expected features \(N, d\), maps"),
    ],
)
def test_what_gives_no_features_is_one_line(net, layer, message):
    with pytest.raises(ValueError, match=message) as caught:
        adapt(net, SHAPE, layer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ("ResNetConfig", "ResNetModel"),
        ("ConvNextConfig", "ConvNextModel"),
        ("ConvNextConfig", "ConvNextForImageClassification"),
        ("ViTConfig", "ViTModel"),
        ("ViTConfig", "ViTForImageClassification"),
    ],
)
def test_networks_of_transformers(config, model):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    small = {
        "ResNetConfig": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        "ConvNextConfig": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        "ViTConfig": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    }
    net = getattr(transformers, model)(getattr(transformers, config)(image_size=32, patch_size=4, **small[config]))
    net.eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        base = net if model.endswith("Model") else net.base_model
        output = base(images)
    found = adapt(net, (3, 32, 32))
    assert found.features_dim == 16
    with torch.no_grad():
        features = found(images)
    want = output.pooler_output if output.pooler_output is not None else output.last_hidden_state[:, 0]
    assert torch.allclose(features, want.flatten(1), atol=1e-5)


def test_an_adapter_is_of_the_network_itself():
    net = Trunk()
    assert isinstance(adapt(net, SHAPE), Adapted)
    assert adapt(net, SHAPE).net is net
