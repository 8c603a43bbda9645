"""The cosine head from a recipe to a file: trained, saved, loaded, attacked, certified, exported."""

import math

import pytest
import torch

from corral import load
from corral.attacks import pgd
from corral.attacks.adaptive import adaptive_attacks
from corral.attacks.autoattack import autoattack
from corral.attacks.threat import Threat
from corral.data import load as load_data
from corral.errors import UsageError
from corral.evaluation.certification import certify_run
from corral.models import CosineHead
from corral.models.export import plain
from corral.models.heads import HEADS
from corral.training import load_model, train

# What a head says of centroids that are trained, and of a scale that is not.
FREE = {"fixed": False, "trained_scale": False}
LIPSCHITZ = {
    "model.backbone": "lipschitz",
    "model.width": 32,
    "model.features": 16,
    "model.depth": 1,
    "model.head": {"name": "cosine", "clusters_per_class": 2, "scale": 16.0},
    "data.train": 400,
    "training.epochs": 8,
    "training.learning_rate": 0.02,
    "method.inner.steps": 2,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train("at", out=tmp_path_factory.mktemp("cosine") / "run", progress=False, **LIPSCHITZ)


@pytest.mark.parametrize("rule", ["nearest", "soft"])
def test_logits_are_scaled_cosines_written_out(rule):
    torch.manual_seed(0)
    head = CosineHead(3, 2, clusters_per_class=2, scale=4.0, rule=rule).double()
    features = torch.randn(6, 3, dtype=torch.float64)
    for feature, logits in zip(features, head(features).detach(), strict=True):
        cosines = [
            4 * float(feature @ centroid) / float(feature.norm() * centroid.norm())
            for centroid in head.centroids.detach()
        ]
        pairs = [cosines[:2], cosines[2:]]
        expected = [max(pair) if rule == "nearest" else math.log(sum(map(math.exp, pair))) for pair in pairs]
        assert logits.tolist() == pytest.approx(expected, rel=1e-12)
    clusters = head.clusters
    assert clusters.classes.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(clusters.centroids.norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert not clusters.by_distance


def test_a_spec_builds_the_head_again():
    head = CosineHead(3, 4, clusters_per_class=2, scale=4.0, rule="soft")
    spec = head.spec()
    assert spec == {"name": "cosine", "clusters_per_class": 2, "scale": 4.0, "rule": "soft", **FREE}
    other = HEADS[spec["name"]].from_spec(spec, 3, 4)
    other.load_state_dict(head.state_dict())
    features = torch.randn(5, 3)
    assert torch.equal(other(features), head(features))
    for bad in (
        {"scale": 0},
        {"scale": -1.0},
        {"clusters_per_class": 0},
        {"rule": "fuzzy"},
        {"scale": "4"},
        {"scal": 4},
    ):
        with pytest.raises(ValueError, match=f"head 'cosine'.*{next(iter(bad))}"):
            CosineHead.resolved(bad, 4)


def test_a_recipe_trains_it_and_the_run_is_read_again(trained):
    model, spec, info = load_model(trained)
    assert spec.head == {"name": "cosine", "clusters_per_class": 2, "scale": 16.0, "rule": "nearest", **FREE}
    assert (type(model.head), info.method) == (CosineHead, "at")
    test = load_data("digits").test
    assert test.labels is not None
    with torch.no_grad():
        assert float((model(test.float()).argmax(1) == test.labels).float().mean()) > 0.6
    assert '[model.head]\nname = "cosine"' in (trained / "recipe.toml").read_text()


def test_it_is_attacked_by_pgd_and_autoattack_and_by_what_knows_centroids(trained):
    model = load(trained)
    test = load_data("digits").test
    assert test.labels is not None
    rows = torch.arange(60)
    x, y = test.float(rows), test.labels[rows]
    clean = model(x).argmax(1) == y
    moved = pgd(model, x, y, eps=0.3, steps=10, step_size=0.08)
    left = model(moved).argmax(1) == y
    assert int(left.sum()) < int(clean.sum())
    found = autoattack(model, x, y, eps=0.1)
    assert float((found - x).abs().max()) <= 0.1 + 1e-6
    assert int((model(found).argmax(1) == y).sum()) < int(clean.sum())
    names = [attack.name for attack in adaptive_attacks(model, threat=Threat("Linf", 0.1))]
    assert "rival_centroids" in names
    assert "magnet" not in names


def test_corral_certify_certifies_it_and_no_attack_breaks_a_radius(trained):
    found = certify_run(trained, n=60, radii=[0.02, 0.1], progress=False)
    assert (found.head, found.rule, found.broken) == ("cosine", "nearest", 0)
    assert found.median > 0
    assert [attack.name for attack in found.attacks][:2] == ["ddn", "bisectors"]


def test_a_trained_one_is_a_plain_graph_of_the_same_logits(trained):
    model, x = load(trained), load_data("digits").test.float(torch.arange(7))
    module = plain(model)
    with torch.no_grad():
        torch.testing.assert_close(module(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "head", "message"),
    [
        ("at", "cosin", "unknown head 'cosin'; did you mean 'cosine'"),
        (
            "at",
            {"name": "cosine", "scal": 3.0},
            "head 'cosine' does not read 'scal': it reads .*; did you mean 'scale'",
        ),
        ("at", {"name": "cosine", "scale": -3.0}, "head 'cosine': scale: Input should be greater than 0, found -3.0"),
        ("at", "cluster", "method 'at' does not fit a head of kind 'cluster'"),
        ("corral", "cosine", "method 'corral' has its own head, 'cluster': leave model.head 'cosine' out"),
        ("simclr", "cosine", "method 'simclr' has its own head, 'features'"),
    ],
)
def test_a_head_that_a_recipe_cannot_have_is_refused_before_training(tmp_path, recipe, head, message):
    with pytest.raises(UsageError, match=message) as caught:
        train(recipe, out=tmp_path / "run", progress=False, **{"model.head": head, "data.train": 200})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
