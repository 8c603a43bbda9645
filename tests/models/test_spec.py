"""Specs: strict, filled with defaults, the same after JSON, and enough to load a saved state."""

import pytest
import torch
from pydantic import ValidationError

from corral.errors import UsageError
from corral.models import BACKBONES, BackboneSpec, ClusterHead, LinearHead, ModelSpec, build_classifier
from corral.models.backbones import build_backbone

BASE = {
    "backbone": {"name": "convnet", "width": 4, "features": 6},
    "image_shape": [1, 8, 8],
    "num_classes": 3,
    "mean": [0.3],
    "std": [0.4],
}


@pytest.mark.parametrize("head", [{"head": "linear"}, {"head": "cluster", "rule": 2, "clusters": 5}])
@pytest.mark.parametrize("name", list(BACKBONES))
def test_json_round_trip(name, head):
    spec = ModelSpec.model_validate(BASE | {"backbone": {"name": name}} | head)
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec
    assert ModelSpec.model_validate(spec.model_dump()) == spec


def test_defaults_are_spelled_out():
    assert BackboneSpec(name="mlp").model_dump(exclude_none=True) == {
        "name": "mlp",
        "features": 64,
        "hidden": (256,),
        "rectify": True,
    }
    spec = ModelSpec.model_validate(BASE | {"head": "cluster"})
    assert spec.head == {"name": "cluster", "rule": "soft", "clusters": 3}


def test_unknown_backbone_lists_the_known_ones():
    with pytest.raises(
        UsageError,
        match=r"unknown backbone 'resnet50'; did you mean 'resnet'\?; known: convnet, lipschitz, mlp, resnet, resnet-",
    ):
        BackboneSpec(name="resnet50")


@pytest.mark.parametrize(
    ("name", "option"), [("mlp", {"width": 3}), ("resnet", {"rectify": False}), ("convnet", {"depth": 18})]
)
def test_an_option_that_is_not_read_is_an_error(name, option):
    with pytest.raises(UsageError, match=f"backbone '{name}' does not read '{next(iter(option))}': it reads"):
        BackboneSpec(name=name, **option)


def test_a_misspelt_option_is_one_line_with_the_nearest():
    with pytest.raises(UsageError, match="'widht': it reads width, features, rectify; did you mean 'width'") as caught:
        BackboneSpec(name="convnet", widht=4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": {"name": "convnet", "width": "4"}},
        {"backbone": {"name": "convnet", "width": 0}},
        {"backbone": {"name": "mlp", "hidden": [0]}},
        {"backbone": {"name": "mlp", "rectify": 1}},
        {"backbone": {"width": 4}},
        {"backbone": "convnet"},
        {"image_shape": [1, 8]},
        {"num_classes": 1},
        {"num_classes": 3.0},
        {"mean": [0.3, 0.3]},
        {"mean": [float("nan")]},
        {"std": [0.0]},
        {"std": ["1"]},
        {"head": "clusters"},
        {"head": "linear", "rule": "soft"},
        {"head": "linear", "clusters": 3},
        {"head": "cluster", "clusters": 2},
        {"head": "cluster", "rule": "softest"},
        {"head": "cluster", "rule": 0},
        {"head": "cluster", "rule": 4},
        {"head": "cluster", "rule": True},
        {"surprise": 1},
    ],
)
def test_impossible_specs_are_refused(change):
    with pytest.raises(ValidationError):
        ModelSpec.model_validate(BASE | {"head": "linear"} | change)


def test_a_spec_is_frozen():
    spec = ModelSpec.model_validate(BASE | {"head": "linear"})
    with pytest.raises(ValidationError, match="frozen"):
        spec.num_classes = 4


def test_backbones_refuse_through_usage_errors():
    spec = ModelSpec.model_validate(BASE | {"backbone": {"name": "resnet", "depth": 17}, "head": "linear"})
    with pytest.raises(UsageError, match="backbone 'resnet': resnet depth must be one of"):
        build_classifier(spec)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_built_classifiers_load_a_saved_state(name):
    small = {"mlp": {}, "convnet": {}, "resnet": {"width": 2, "depth": 10}, "vgg": {"width": 2, "depth": 11}}
    small |= {"resnet-cifar": {"width": 1, "depth": 8}, "resnet-imagenet": {"width": 1, "depth": 18}}
    small["lipschitz"] = {"width": 16, "depth": 1, "features": 16}
    options = small.get(name, {"width": 1, "depth": 10})
    spec = ModelSpec.model_validate(
        BASE | {"backbone": {"name": name, **options}, "head": "cluster", "clusters": 4, "rule": "nearest"}
    )
    torch.manual_seed(0)
    model, x = build_classifier(spec), torch.rand(6, 1, 8, 8)
    model(x)  # moves the BatchNorm statistics off their initial values
    assert isinstance(model.head, ClusterHead)
    # A refit may have changed the number of clusters since the spec was written.
    centroids = torch.randn(5, model.features_dim)
    model.head.refit(centroids, torch.tensor([0, 1, 2, 2, 2]), 0.5)
    model.eval()
    other = build_classifier(spec).eval()
    assert other.head.rule == "nearest"
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


def test_linear_head_and_image_size_come_from_the_spec():
    model = build_classifier(ModelSpec.model_validate(BASE | {"head": "linear"}))
    assert isinstance(model.head, LinearHead)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    with pytest.raises(ValueError, match="images must be 8×8, found 9×9"):
        model(torch.rand(2, 1, 9, 9))


@pytest.mark.parametrize(("name", "depth"), [("resnet", 10), ("vgg", 11), ("wideresnet", 10), ("resnet-cifar", 8)])
def test_features_put_a_linear_layer_behind_a_deep_backbone_and_may_be_negative(name, depth):
    torch.manual_seed(0)
    plain, embedded = (
        build_backbone(name, (1, 16, 16), {"width": 2, "features": count, "depth": depth}).eval() for count in (None, 5)
    )
    x = torch.rand(20, 1, 16, 16)
    assert float(plain(x).detach().min()) >= 0
    found = embedded(x).detach()
    assert found.shape == (20, embedded.features_dim) == (20, 5)
    assert float(found.min()) < 0
    twin = embedded.backbone(x) @ embedded.embedding.weight.T + embedded.embedding.bias
    torch.testing.assert_close(found, twin.detach())
