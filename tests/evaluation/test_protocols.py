"""What a protocol attacks a method with."""

import pytest
import torch
from torch import nn

from corral.attacks import PUBLISHED_100_MAGNET, presets
from corral.attacks.centred import TrainingLoss, centred_attacks
from corral.attacks.objectives import PublishedMagnet, ThroughHead, prepare
from corral.attacks.threat import Threat
from corral.data import load, stratified_subset
from corral.errors import UsageError
from corral.evaluation import evaluate
from corral.evaluation.protocols import protocol_attacks
from corral.models import MLP, Classifier, ClusterHead, PublishedHead
from corral.training import load_model, load_recipe, train
from corral.training.methods import METHODS, Method

THREAT = Threat("Linf", 0.1)


def attacks_of(protocol, recipe, model=None, **given):
    found = protocol_attacks(
        protocol, model or nn.Identity(), threat=THREAT, classes=10, recipe=load_recipe(recipe, **given)
    )
    return {attack.name: attack for attack in found}


def settings_of(*arguments, **given):
    return {name: dict(attack.settings) for name, attack in attacks_of(*arguments, **given).items()}


@pytest.mark.parametrize(
    ("recipe", "loss", "weights"),
    [
        ("nominal", "cross_entropy", {}),
        ("at", "cross_entropy", {}),
        ("fast-at", "cross_entropy", {}),
        ("free-at", "cross_entropy", {}),
        ("slf", "cross_entropy", {}),
        ("corral", "cross_entropy", {}),
        ("trades", "trades", {"consistency": "kl", "consistency_weight": 6.0}),
        ("qtrades", "trades", {"consistency": "cross_entropy", "consistency_weight": 1.0}),
        ("mart", "mart", {"consistency_weight": 5.0}),
        ("ikl", "ikl", {"mse_weight": 20.0, "consistency_weight": 4.0, "temperature": 4.0}),
        ("nuat", "nuat", {"nuclear_weight": 4.5}),
        ("clustr", "magnet", {}),
        ("magnet", "magnet", {}),
        ("clustr-published", "published_magnet", {"alpha": 12.5}),
        (
            "clustr-qtrades",
            "clustr",
            {
                "numerics": "log",
                "consistency": "cross_entropy",
                "consistency_weight": 8.0,
                "cross_entropy_weight": 0.0,
            },
        ),
        ("certified", "certified", {"annealing": 0.0, "radius": 0.5}),
        ("mat", "mat", {"so_weight": 1.0, "bibo_weight": 1.0}),
        ("mat-so", "mat", {"so_weight": 1.0, "bibo_weight": 0.0}),
        ("mmc", "mmc", {}),
        ("at-mmc", "mmc", {}),
    ],
)
def test_adaptive_pgd_climbs_the_loss_that_the_method_trains_on(recipe, loss, weights):
    settings = settings_of("centred", recipe)["pgd_50_training"]
    common = {"steps": 50, "step_size": 0.025, "restarts": 1, "objective": loss, "success_rule": "max_loss_restart"}
    assert settings == common | weights


def clusters():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = ClusterHead(torch.randn(12, 3), torch.arange(12) % 4, 0.5)
        return Classifier(MLP(4, (6,), 3, rectify=False), head, [0.5], [1.0]).eval()


def images(model):
    x = torch.rand(16, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    return x, model(x).argmax(1)


@pytest.mark.parametrize(
    ("recipe", "data", "alpha"),
    [
        ("clustr-qtrades-published", "svhn", 10.0),
        ("clustr-qtrades", "svhn", 10.0),
        ("clustr-published", "svhn", 13.0),
        ("clustr-qtrades-published", "cifar100", 8.5),
        ("clustr-qtrades-published", "cifar10", 12.5),
        ("corral", "svhn", 12.5),
        ("mat", "cifar10", 12.5),
    ],
)
def test_the_attack_of_clustr_has_the_alpha_of_the_recipe(monkeypatch, recipe, data, alpha):
    model = clusters()
    x, y = images(model)
    monkeypatch.setattr(presets, "pgd_outcome", lambda model, x, y, **given: given["objective"])
    attack = attacks_of("paper", recipe, model, data=data)["pgd_published_100_magnet"]
    settings = dict(attack.settings)
    # Records of before that the alpha does not change keep their settings.
    assert settings.pop("alpha", 12.5) == alpha
    assert set(settings) == {"steps", "step_size", "restarts", "objective", "success_rule"}
    assert settings["objective"] == "published_magnet"
    assert attack.description.endswith(f"alpha {alpha:g}")
    # What it climbs, as numbers: the loss with another alpha differs on some image.
    rows = torch.arange(len(x))
    climbed = prepare(attack.run(model, x, y, seed=0), model, x, y)(x, rows)[0]
    assert torch.equal(climbed, prepare(PublishedMagnet(alpha), model, x, y)(x, rows)[0])
    assert not torch.equal(climbed, prepare(PublishedMagnet(alpha + 0.5), model, x, y)(x, rows)[0])


@pytest.mark.parametrize(
    ("recipe", "changes", "nearest"),
    [
        ("clustr-published", {}, None),
        ("clustr-published", {"method.nearest": 2}, 2),
        ("clustr", {"method.nearest": 2}, None),
        ("corral", {}, None),
    ],
)
def test_the_published_scores_keep_as_many_clusters_as_training_kept(monkeypatch, recipe, changes, nearest):
    model = clusters()
    x, y = images(model)
    monkeypatch.setattr(presets, "pgd_outcome", lambda model, x, y, **given: given["objective"])
    attack = attacks_of("quick", recipe, model, overrides=changes)["pgd_published"]
    assert dict(attack.settings).get("nearest") == nearest
    rows = torch.arange(len(x))
    climbed = prepare(attack.run(model, x, y, seed=0), model, x, y)(x, rows)[0]
    kept = ThroughHead(lambda head: PublishedHead(head, nearest=nearest or 10))
    assert torch.equal(climbed, prepare(kept, model, x, y)(x, rows)[0])


def test_the_adaptive_ensemble_climbs_the_loss_of_training_too():
    head = ClusterHead(torch.randn(4, 3), torch.arange(4), 0.5)
    single = clusters().with_head(head)
    always = ["cross_entropy", "margin", "targeted_dlr"]
    on_clusters = [*always, "magnet", "rival_centroids"]
    assert list(settings_of("adaptive", "nominal")) == always
    assert list(settings_of("adaptive", "trades")) == [*always, "trades"]
    assert settings_of("adaptive", "trades")["trades"]["consistency_weight"] == 6.0
    assert list(settings_of("adaptive", "corral", clusters())) == on_clusters
    assert list(settings_of("adaptive", "clustr", clusters())) == on_clusters
    assert list(settings_of("adaptive", "clustr-qtrades", clusters())) == [*on_clusters, "clustr"]
    assert list(settings_of("adaptive", "mmc", single)) == [*on_clusters, "mat", "mmc"]
    assert settings_of("adaptive", "mmc", single)["mat"]["so_weight"] == 1.0
    weighted = settings_of("adaptive", "mat", single, overrides={"method.so_weight": 0.25})
    assert list(weighted) == [*on_clusters, "mat"]
    assert weighted["mat"]["so_weight"] == 0.25


@pytest.mark.parametrize("protocol", ["centred", "adaptive"])
def test_a_method_whose_loss_nobody_knows_is_refused_where_the_loss_is_attacked(monkeypatch, protocol):
    recipe = load_recipe("nominal")
    monkeypatch.setitem(METHODS._things, "nominal", Method)
    with pytest.raises(UsageError, match="method 'nominal' says nothing of the loss it trains on"):
        attacks_of(protocol, "nominal")
    assert "pgd_ce" in attacks_of("quick", "nominal")
    monkeypatch.delitem(METHODS._things, "nominal")
    for each in (protocol, "quick"):
        with pytest.raises(UsageError, match="unknown method 'nominal'"):
            protocol_attacks(each, nn.Identity(), threat=THREAT, classes=10, recipe=recipe)


@pytest.fixture(scope="module")
def trades(tmp_path_factory):
    """TRADES on digits, 300 test images and their labels."""
    folder = tmp_path_factory.mktemp("trades") / "run"
    given = {"training.epochs": 6, "data.train": 800, "model.width": 8, "training.warm_start.epochs": 0}
    train("trades", out=folder, progress=False, **given)
    return folder


def test_on_a_trades_model_its_own_loss_is_as_strong_as_the_cross_entropy_and_the_divergence_alone_is_not(trades):
    """MAT's Table 4: "adaptive" is never the weaker one, but by what one random start leaves to chance."""
    model, test = load_model(trades)[0].eval(), stratified_subset(load("digits").test, 300, seed=0)
    x, y = test.float(), test.labels
    own = attacks_of("centred", trades, model)
    divergence = {a.name: a for a in centred_attacks(model, threat=THREAT, training=TrainingLoss("kl", "kl"))}

    def kept(attack):
        found = attack.run(model, x, y, seed=0).x_adv
        return float((model(found).argmax(1) == y).float().mean())

    plain, training, alone = map(kept, (own["pgd_50"], own["pgd_50_training"], divergence["pgd_50_training"]))
    assert 0.2 < plain < 0.8
    assert abs(training - plain) <= 0.03
    assert alone > plain + 0.08


def test_a_chosen_preset_takes_the_recipes_alpha_as_the_protocol_does(tmp_path):
    given = {"training.epochs": 1, "data.train": 200, "model.width": 4, "training.warm_start.epochs": 1}
    train("clustr-published", out=tmp_path / "run", progress=False, **(given | {"method.alpha": 9.0}))
    record = evaluate(tmp_path / "run", attacks=[PUBLISHED_100_MAGNET], n=10, progress=False)
    settings = next(result.settings for result in record.attacks if result.name == "pgd_published_100_magnet")
    assert settings["alpha"] == 9.0
