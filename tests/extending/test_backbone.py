"""docs/extending/backbone.md runs as it stands there."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import corral
from corral.errors import CorralError, UsageError
from corral.models import BACKBONES, BackboneSpec, Embedded, ModelSpec
from corral.models.backbones import build_backbone
from corral.training import load_model, load_recipe, train

TINY = {"data.train": 200, "epochs": 1}


def test_the_backbone_of_the_page_is_trained_and_attacked(extending: Callable[[str], str], tmp_path: Path) -> None:
    extending("extending/backbone.md")
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "runs/patch/records").glob("*.json"))
    assert record["n"] == 60
    model = tomllib.loads((tmp_path / "runs/patch/recipe.toml").read_text())["model"]
    assert model == {"backbone": "patch", "width": 16}
    by_file = tomllib.loads((tmp_path / "runs/by-file/recipe.toml").read_text())["model"]
    assert by_file == {"backbone": f"{tmp_path.resolve()}/patches.py:patch", "side": 2}


@pytest.fixture
def strips():
    @corral.register.backbone("strips")
    def strips(in_features, *, width: int = 6, bias: bool = True):
        return nn.Sequential(nn.Flatten(), nn.Linear(in_features, width, bias=bias), nn.ReLU())

    yield strips
    del BACKBONES._things["strips"]


def test_options_are_the_parameters_and_features_are_counted(strips, tmp_path: Path) -> None:
    assert BackboneSpec(name="strips").options() == {"width": 6, "features": None, "bias": True}
    state = torch.get_rng_state()
    net = build_backbone("strips", (1, 8, 8), {"width": 3, "features": None, "bias": False})
    assert net.features_dim == 3
    assert net[1].bias is None
    torch.set_rng_state(state)
    twin = strips(64, width=3, bias=False)
    assert torch.equal(twin[1].weight, net[1].weight)  # counting draws nothing
    wider = build_backbone("strips", (1, 8, 8), {"width": 3, "features": 5, "bias": True})
    assert isinstance(wider, Embedded)
    assert wider.features_dim == 5
    folder = train("nominal", out=tmp_path / "run", progress=False, **TINY, **{"model.backbone": "strips", "width": 4})
    model, spec, _ = load_model(folder)
    assert spec.backbone.options() == {"width": 4, "features": None, "bias": True}
    assert model.features_dim == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backbone": "strip"}, r"unknown backbone 'strip'; did you mean 'strips'\?; known: "),
        (
            {"backbone": "strips", "depth": 3},
            "backbone 'strips' does not read 'depth': it reads width, bias, features, layer; did you mean 'width'",
        ),
        ({"backbone": "strips", "width": "4"}, "backbone 'strips': width: Input should be a valid integer, found '4'"),
        ({"backbone": "strips", "bias": 1}, "backbone 'strips': bias: Input should be a valid boolean, found 1"),
        (
            {"backbone": "mlp", "hidden": [0]},
            "backbone 'mlp': hidden: Input should be greater than or equal to 1, found 0",
        ),
    ],
)
def test_what_a_backbone_does_not_read_is_one_line_before_training(strips, given, message) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe("nominal", overrides={f"model.{key}": value for key, value in given.items()})
    assert "\n" not in str(caught.value)


def _spec(name: str) -> ModelSpec:
    return ModelSpec(
        backbone={"name": name}, image_shape=(1, 8, 8), num_classes=3, mean=(0.0,), std=(1.0,), head="linear"
    )


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda shape: nn.Flatten(0),
            r"backbone 'own': it gives a Tensor of shape \(64,\), expected features \(N, d\)",
        ),
        (lambda: 3, "backbone 'own': it must return a torch.nn.Module, found a int"),
        (lambda: 1 / 0, r"backbone 'own' failed \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_what_makes_no_features_is_one_line(made, message) -> None:
    BACKBONES.hold("own", made)
    try:
        with pytest.raises(CorralError, match=message):
            corral.models.build_classifier(_spec("own"))
    finally:
        del BACKBONES._held["own"]


def test_a_function_of_nothing_and_maps_are_taken() -> None:
    BACKBONES.hold("own", lambda: nn.Identity())
    try:
        model = corral.models.build_classifier(_spec("own"))
        images = torch.rand(2, 1, 8, 8)
        assert torch.equal(model.features(images), images.mean((2, 3)))
    finally:
        del BACKBONES._held["own"]
