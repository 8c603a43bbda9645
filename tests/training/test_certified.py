"""Certified training: what it reaches on digits, radii computed independently, attacks inside them, operator norms."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from corral.attacks import pgd
from corral.certify import nearest_radius, normalisation_constant, soft_radius
from corral.data import load
from corral.errors import UsageError
from corral.training import Training, load_model, load_recipe, train
from corral.training.recipes.recipe import ModelConfig
from corral.training.run import Run, read_metrics

SMALL = {"model.width": 64, "model.features": 32, "model.depth": 1, "training.epochs": 8}


def plain_radius(feature, centroids, classes):
    """One feature's nearest-rule radius in plain Python: the best own centroid's nearest bisector (a sound bound)."""
    distances = [sum((z - m) ** 2 for z, m in zip(feature, centroid, strict=True)) for centroid in centroids]
    decided = classes[distances.index(min(distances))]
    best = 0.0
    for i, own in enumerate(centroids):
        if classes[i] == decided:
            margins = [
                (distances[j] - distances[i]) / (2 * math.dist(own, rival))
                for j, rival in enumerate(centroids)
                if classes[j] != decided
            ]
            best = max(best, min(margins))
    return decided, best


class Trained:
    def __init__(self, folder: Path):
        self.folder = folder
        self.model, self.spec, self.info = load_model(folder)
        bounds = [part.lipschitz_bound(()) for part in self.model.backbone.layers if hasattr(part, "lipschitz_bound")]
        self.bound = math.prod(bounds)
        self.lipschitz = normalisation_constant(self.model.normalisation.std) * self.bound
        test = load("digits").test
        self.x, self.y = test.float(), test.labels
        with torch.no_grad():
            self.features, self.logits = self.model.features(self.x), self.model(self.x)
        self.right = self.logits.argmax(1) == self.y

    def radii(self):
        head = self.model.head
        if head.rule == "soft":
            return soft_radius(
                self.features, head.centroids, head.classes, head.effective_variance, lipschitz=self.lipschitz
            )
        return nearest_radius(self.features, head.centroids, head.classes, lipschitz=self.lipschitz)

    def certified(self, radius):
        return float(((self.radii() > radius) & self.right).double().mean())


KINDS = {
    "K=1": {},
    "K=2": {"method.clusters": 2},
    "K=2, nearest": {"method.clusters": 2, "method.rule": "nearest"},
    "shift": {"model.layer": "shift", "model.width": 16},
    "sll": {"model.layer": "sll", "model.width": 16},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    made = {}

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("certified") / "run"
            made[kind] = Trained(train("certified", out=folder, progress=False, **(SMALL | KINDS[kind])))
        return made[kind]

    return get


@pytest.mark.parametrize(
    ("kind", "least"), [("K=1", 0.7), ("K=2", 0.7), ("K=2, nearest", 0.7), ("shift", 0.6), ("sll", 0.5)]
)
def test_certified_accuracy_on_digits(trained, kind, least):
    found = trained(kind)
    assert len(found.model.head.centroids) == 10 * KINDS[kind].get("method.clusters", 1)
    assert found.certified(0.25) >= least
    assert found.certified(0.0) >= found.certified(0.25) >= found.certified(0.5)
    last = read_metrics(Run(found.folder).metrics_file)[-1]
    assert 0 < last["certified_accuracy"] <= 1


@pytest.mark.parametrize("kind", ["K=1", "K=2, nearest"])
def test_radii_against_plain_python(trained, kind):
    """With one cluster a class both rules have this radius; with two the fast bound is below the exact one."""
    found = trained(kind)
    head = found.model.head
    centroids, classes = head.centroids.double().tolist(), head.classes.tolist()
    radii = found.radii()[:60]
    for feature, radius, logits in zip(found.features[:60].double().tolist(), radii, found.logits, strict=False):
        decided, expected = plain_radius(feature, centroids, classes)
        expected /= found.lipschitz
        assert decided == int(logits.argmax())
        assert float(radius) >= expected * (1 - 1e-9) - 1e-12
        if kind == "K=1":
            assert float(radius) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_no_attack_inside_the_radius_succeeds(trained, kind):
    found = trained(kind)
    radii = found.radii()
    generator = torch.Generator().manual_seed(0)
    for radius in (0.1, 0.3, 0.6):
        safe = (radii > radius) & found.right
        x, y = found.x[safe][:80], found.y[safe][:80]
        if len(x) == 0:
            continue
        x_adv = pgd(
            found.model, x, y, eps=radius, norm="L2", steps=20, step_size=radius / 5, restarts=2, generator=generator
        )
        assert float((x_adv - x).flatten(1).norm(dim=1).max()) <= radius * (1 + 1e-5)
        with torch.no_grad():
            assert bool((found.model(x_adv).argmax(1) == y).all())


@pytest.mark.parametrize("kind", ["K=1", "shift", "sll"])
def test_trained_layers_have_operator_norms_of_at_most_one(trained, kind):
    found = trained(kind)
    assert found.bound <= 1 + 1e-5
    maps = found.model.normalisation(found.x[:2])
    for part in found.model.backbone.layers:
        for point in maps:
            matrix = torch.autograd.functional.jacobian(lambda x: part(x.unsqueeze(0)).flatten(), point)  # noqa: B023
            norm = np.linalg.norm(matrix.flatten(1).double().numpy(), 2)
            assert norm <= 1 + 1e-5
            if hasattr(part, "lipschitz_bound"):
                assert norm <= part.lipschitz_bound(tuple(maps.shape)) + 2e-6
        with torch.no_grad():
            maps = part(maps)


def test_saving_and_loading_gives_equal_outputs(trained):
    found = trained("K=2")
    again, spec, _ = load_model(found.folder)
    assert spec.backbone.name == "lipschitz"
    assert torch.equal(again(found.x), found.logits)
    assert torch.equal(again.features(found.x), found.features)


def test_a_killed_run_resumes_with_equal_bits(tmp_path, monkeypatch):
    tiny = SMALL | {"data.train": 100, "training.epochs": 3, "method.clusters": 2}
    whole = train("certified", out=tmp_path / "whole", progress=False, **tiny)
    epoch = Training._epoch

    def dies(run, bar):
        if run.epoch == 2:
            raise KeyboardInterrupt
        return epoch(run, bar)

    monkeypatch.setattr(Training, "_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        train("certified", out=tmp_path / "killed", progress=False, **tiny)
    monkeypatch.undo()
    killed = train("certified", out=tmp_path / "killed", progress=False, resume=True, **tiny)
    expected, found = load_model(whole)[0].state_dict(), load_model(killed)[0].state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_centroids_stay_where_their_learning_rate_is_zero(tmp_path):
    tiny = SMALL | {"data.train": 100, "training.epochs": 1, "method.centroids_learning_rate": 0.0}
    before = Training(
        load_recipe("certified", overrides=tiny), Run(tmp_path / "a"), torch.device("cpu"), progress=False
    )
    before.begin(resume=False)
    model = load_model(train("certified", out=tmp_path / "b", progress=False, **tiny))[0]
    assert torch.equal(model.head.centroids, before.model.head.centroids)
    assert torch.equal(model.head.variance, before.model.head.variance)


def test_the_temperature_is_pixels_of_radius_a_unit_of_a_logit(begun):
    """Two classes whose distance is the mean one: a feature on their axis, one temperature from the bisector."""
    run = begun("certified", **{"model.depth": 1, "method.temperature": 0.4})
    head, lipschitz = run.model.head, normalisation_constant(run.model.normalisation.std)
    gaps = torch.pdist(head.centroids)
    assert float(gaps.mean() * lipschitz * 0.4) == pytest.approx(float(head.variance), rel=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method.clusters": 2, "data.train": 15}, "method.clusters 2 needs as many training images"),
        ({"threat.norm": "Linf"}, "set threat.norm to 'L2'"),
    ],
)
def test_what_cannot_be_certified_is_refused(given, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        train("certified", out=tmp_path / "run", progress=False, **given)


def test_another_backbone_is_refused(tmp_path):
    recipe = load_recipe("certified").model_copy(update={"model": ModelConfig(backbone="mlp")})
    with pytest.raises(UsageError, match=r"a backbone that is 1-Lipschitz: set model\.backbone to 'lipschitz'"):
        train(recipe, out=tmp_path / "run", progress=False)


@pytest.mark.parametrize("data", ["digits", "mnist", "cifar10"])
def test_the_recipe_knows_the_data_set(data):
    recipe = load_recipe("certified", data=data)
    assert recipe.threat.norm == "L2"
    assert recipe.model.backbone == "lipschitz"
