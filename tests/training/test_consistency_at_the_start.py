"""No shipped recipe begins with a consistency term that drowns all else: D-nearest decides, it does not train."""

import math

import pytest
import torch

from corral.data import DataSet, Images
from corral.training import Run, Training, chosen_sets, load_recipe, shipped_recipes, train

# Channels, side and classes of the data sets that recipes with a consistency term have values for, or name themselves.
SHAPES = {
    "digits": (1, 8, 10),
    "mnist": (1, 28, 10),
    "fashion-mnist": (1, 28, 10),
    "svhn": (3, 32, 10),
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
    "stl10": (3, 96, 10),
}
# A small network that begins from others' weights; everything that the loss is made of stays the recipe's own.
SMALL = {"data.train": None, "data.validation": 0, "model.width": 4, "training.select": "last"}
UNWARMED = {"training.warm_start.epochs": 0, "training.warm_start.stop_accuracy": 0.0}


def cases():
    found = []
    for recipe in shipped_recipes():
        if getattr(load_recipe(recipe).method, "consistency_weight", 0) > 0:
            found += [(recipe, data) for data in chosen_sets(recipe) if data in SHAPES]
    return found


def images_of(name, root=None, code=True):
    """Four images of every class of the data set's shape, at least 40: the class's own pattern and noise."""
    channels, side, classes = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat(40 // min(classes, 10))
    patterns = torch.rand(classes, channels, side, side, generator=generator)
    noise = torch.rand(len(labels), channels, side, side, generator=generator)
    images = Images((255 * (patterns[labels] + noise) / 2).byte(), labels)
    unlabeled = Images(images.pixels.flip(0)) if name == "stl10" else None
    return DataSet(name, tuple(map(str, range(classes))), images, images, unlabeled)


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """Trains a recipe's network on a data set's images by cross-entropy, once for each network."""
    made = {}

    def run(resolved):
        key = resolved.data.name, str(resolved.model)
        if key not in made:
            same = {f"model.{name}": value for name, value in resolved.model.model_dump(exclude_none=True).items()}
            settings = SMALL | UNWARMED | same | {"epochs": 5, "batch_size": 20, "learning_rate": 2e-3}
            out = tmp_path_factory.mktemp("warm") / "run"
            settings |= {"data.crop": 0, "data.flip": False, "training.optimiser": "adam", "training.weight_decay": 0.0}
            settings |= {"model.backbone": resolved.model.backbone, "threat.eps": resolved.threat.eps}
            made[key] = train("nominal", data=resolved.data.name, out=out, progress=False, **settings)
        return str(made[key])

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "data"), cases())
def test_a_recipe_begins_with_a_consistency_of_at_most_ten_log_c(recipe, data, warm, tmp_path, monkeypatch):
    monkeypatch.setattr("corral.training.start.load", images_of)
    overrides = SMALL | UNWARMED
    if load_recipe(recipe, data=data).model.backbone == "resnet":
        overrides |= {"model.depth": 10, "model.width": 16 if data == "stl10" else 4}
    if data == "stl10":  # images of 96 pixels
        overrides |= {"training.batch_size": 10}
    overrides |= {"training.start": warm(load_recipe(recipe, data=data, overrides=overrides))}
    resolved = load_recipe(recipe, data=data, overrides=overrides)
    run = Training(resolved, Run(tmp_path / "run"), torch.device("cpu"), progress=False)
    run.begin(resume=False)
    run.model.train()
    rows = next(iter(run.method.batches()))
    x, labels = run.images.float(rows), run.images.labels
    y = torch.zeros(len(x), dtype=torch.int64) if labels is None else labels[rows]
    consistency = float(run.method.loss(x, y, rows)[1]["consistency"])
    assert consistency < 10 * math.log(SHAPES[data][2])


@pytest.mark.parametrize("rule", ["nearest", 1, 3])
@pytest.mark.parametrize("numerics", ["log", "published", "published_log_loss", "published_log_scores"])
def test_the_rule_of_clustr_changes_what_its_head_decides_by_and_nothing_of_the_loss(begun, rule, numerics):
    losses = {}
    for name in ("soft", rule):
        run = begun("clustr-ce-qtrades", numerics=numerics, rule=name)
        rows = next(iter(run.method.batches()))
        loss, metrics = run.method.loss(run.images.float(rows), run.images.labels[rows], rows)
        loss.backward()
        slopes = torch.cat([parameter.grad.flatten() for parameter in run.model.backbone.parameters()])
        losses[name] = loss.detach(), metrics, slopes
        assert run.model.head.rule == name
    torch.testing.assert_close(losses[rule], losses["soft"], rtol=0, atol=0)
    assert float(losses[rule][2].abs().max()) > 0
