"""Every shipped recipe of a classifier trains on digits, far above chance, into a model that loads."""

import pytest
import torch

from corral.data import load
from corral.training import Run, load_model, load_recipe, read_metrics, shipped_recipes, train
from corral.training.methods import method_class

SMALL = {
    "data.train": 300,
    "model.width": 8,
    "model.features": 32,
    "training.epochs": 1,
    "training.learning_rate": 2e-3,
    "training.warm_start.epochs": 8,
    "training.warm_start.learning_rate": 4e-3,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A run whose backbone at-pretrained begins from."""
    settings = {key: value for key, value in SMALL.items() if "warm" not in key}
    return train("nominal", out=tmp_path_factory.mktemp("start") / "run", progress=False, **settings)


def of_classifiers():
    """The recipes that train a network into a classifier."""
    return [name for name in shipped_recipes() if method_class(load_recipe(name).method).trains == "all"]


@pytest.mark.parametrize("name", of_classifiers())
def test_a_shipped_recipe_trains_on_digits(name, start, tmp_path):
    given = {"training.start": str(start)} if name in ("at-pretrained", "aff") else {}
    if name == "aff":  # the run's own backbone
        given["model.backbone"] = "convnet"
    method = load_recipe(name).method
    if hasattr(method, "centres"):  # no place that warm features would be near to
        given = {"training.epochs": 12, "training.warm_start.epochs": 0}
        if getattr(method, "so_weight", 0) > 0:  # at its full weight it makes features long before they turn
            given |= {"method.so_weight": 0.02}
    folder = train(name, out=tmp_path / "run", progress=False, **(SMALL | given))
    model, spec, info = load_model(folder)
    assert info.method == method.name
    assert spec.head["name"] == ("cluster" if hasattr(method, "clusters") or hasattr(method, "centres") else "linear")
    assert read_metrics(Run(folder).metrics_file)[-1]["phase"] == method.name
    test = load("digits").test
    with torch.no_grad():
        right = model(test.float()).argmax(1) == test.labels
    assert float(right.double().mean()) >= 0.4
