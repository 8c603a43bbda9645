"""Radii in the plane: exact on a rotation, enclosed by the truth on a trained network."""

import math

import pytest
import torch

from corral.analysis import ANALYSES, AnalysedModel, measured_run
from corral.attacks.threat import Threat
from corral.data import Images, load
from corral.errors import UsageError
from corral.models import MLP, Classifier, ClusterHead
from corral.training import load_recipe, train


@pytest.fixture
def rotated(released):
    """Points of the plane, a backbone that turns and triples them, and one centroid on either side of x = 0.4."""
    backbone = MLP(2, (), 2, rectify=False)
    turn = torch.tensor([[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]])
    with torch.no_grad():
        backbone.layers[1].weight.copy_(3 * turn)
        backbone.layers[1].bias.zero_()
    centroids = 3 * torch.tensor([[0.1, 0.5], [0.7, 0.5]]) @ turn.T
    model = Classifier(backbone, ClusterHead(centroids, torch.arange(2), 1.0, rule="nearest"), [0.0, 0.0], [1.0, 1.0])
    points = torch.rand(30, 2, 1, 1, generator=torch.Generator().manual_seed(3))
    images = Images(points, (points[:, 0, 0, 0] > 0.4).long())
    return AnalysedModel(model.eval(), "rotated", "digits", ("0", "1"), Threat("Linf", 0.1), images, images, 0)


def test_on_a_rotation_all_three_radii_are_the_distance_to_the_bisector(rotated):
    found = ANALYSES["radii"](rotated)
    expected = (rotated.test.pixels[:, 0, 0, 0].double() - 0.4).abs()
    assert found.numbers["accuracy"] == 1.0
    assert found.numbers["lipschitz"] == pytest.approx(3, rel=1e-3)
    median = float(expected.median())
    for name in ("global", "local"):
        assert found.numbers[name] == pytest.approx(median, rel=1e-2)
        assert found.numbers[name] <= median * (1 + 1e-6)
    assert median - 1e-6 <= found.numbers["true"] <= median + 2 / 800
    for radius, share, truth in zip(
        found.series["grid"], found.series["certified global"], found.series["true"], strict=True
    ):
        assert share <= float((expected > radius * (1 - 1e-6)).double().mean()) <= truth + 1e-12
    cells = torch.tensor(found.series["cells"]).view(31, 31)
    assert torch.equal(cells, (torch.linspace(0, 1, 31) > 0.4).double().expand(31, 31).to(cells.dtype))


@pytest.mark.parametrize("part", ["", "head", "backbone", "backbone.layers.1"])
def test_a_model_with_a_hook_has_no_radii_in_the_plane(rotated, part):
    rotated.model.get_submodule(part).register_forward_hook(lambda _, given, out: out.flip(1))
    with pytest.raises(UsageError, match="has a forward hook"):
        ANALYSES["radii"](rotated)


def test_on_a_trained_network_certified_is_within_the_truth(tmp_path):
    run = train(
        "clustr",
        data="toy-moons",
        out=tmp_path / "run",
        progress=False,
        device="cpu",
        **{"data.train": 200, "training.epochs": 5, "training.warm_start.epochs": 5, "model.hidden": [8, 8]},
    )
    found = ANALYSES["radii"](measured_run(run, n=30))
    for worst, local, true in zip(
        found.series["certified global"], found.series["certified local"], found.series["true"], strict=True
    ):
        assert worst <= local <= true
    assert 0 < found.numbers["global"] <= found.numbers["local"] <= found.numbers["true"]
    assert found.numbers["lipschitz_lower"] <= found.numbers["lipschitz"] <= 1.01 * found.numbers["lipschitz_lower"]


def test_images_have_no_radii_in_the_plane(subject):
    with pytest.raises(UsageError, match="need points"):
        ANALYSES["radii"](subject)


def test_the_toy_sets_have_recipes_that_train_the_papers_network():
    for name in ("magnet", "clustr", "at", "corral"):
        for data in ("toy-moons", "toy-circles"):
            recipe = load_recipe(name, data=data)
            assert recipe.model.backbone == "mlp"
            assert recipe.model.options() == {"features": 20, "hidden": [20, 20], "rectify": False}
            assert load(data).train.shape == (2, 1, 1)


def test_another_backbone_given_by_hand_drops_the_old_one_s_options():
    recipe = load_recipe("corral", overrides={"model.backbone": "mlp", "hidden": [5]})
    assert recipe.model.options() == {"hidden": [5]}
    assert load_recipe("corral", overrides={"model.backbone": "convnet"}).model.options()["width"] == 16
