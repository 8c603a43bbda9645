"""AutoAttack: its published list, its worst case, linear models' exact answers, few classes, and the public code."""

import importlib
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles import linear_distances
from torch import nn

from corral.attacks import autoattack
from corral.attacks.apgd.attack import apgd
from corral.attacks.attack import Attack
from corral.attacks.autoattack import (
    autoattack_outcome,
    count_classes,
    ensemble,
    plus_attacks,
    rand_attacks,
    standard_attacks,
)
from corral.attacks.engine import run_attacks
from corral.attacks.outcome import Outcome
from corral.attacks.threat import Threat

# The package has a function of this name.
MODULE = importlib.import_module("corral.attacks.autoattack")
THREAT = Threat("Linf", 0.1)


def linear(classes, pixels=12, seed=0):
    """Boundaries pass through the grey image, so that small balls around it decide."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).eval()
    with torch.no_grad():
        weight = torch.randn(classes, pixels, generator=torch.Generator().manual_seed(seed))
        model[1].weight.copy_(weight)
        model[1].bias.copy_(-weight.sum(1) / 2)
    return model


def images(n, seed=0):
    return 0.5 + 0.2 * (torch.rand(n, 1, 3, 4, generator=torch.Generator().manual_seed(seed)) - 0.5)


def described(attacks):
    return {attack.name: dict(attack.settings) for attack in attacks}


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_standard_version_has_the_published_parameters(norm):
    assert described(standard_attacks(Threat(norm, 0.1), 10)) == {
        "apgd-ce": {"steps": 100, "restarts": 1, "objective": "cross_entropy", "eot": 1},
        "apgd-t": {"steps": 100, "restarts": 1, "objective": "targeted_dlr", "targets": 9},
        "fab-t": {"steps": 100, "restarts": 1, "targets": 9},
        "square": {"queries": 5000, "restarts": 1, "objective": "margin"},
    }


def test_the_versions_are_those_of_the_public_code():
    """Names, restarts, targets, passes and queries, read off the public implementation."""
    model = linear(10)
    for version, norm in [("standard", "Linf"), ("standard", "L2"), ("standard", "L1"), ("plus", "Linf")]:
        code = pytest.importorskip("pyautoattack")
        public = code.AutoAttack(model, norm=norm, eps=0.1, version=version, device="cpu")
        ours = described(ensemble(version, Threat(norm, 0.1), 10))
        assert list(ours) == public.attacks_to_run, (version, norm)
        assert ours["apgd-ce"]["restarts"] == public.apgd.n_restarts
        assert ours["apgd-t"]["targets"] == public.apgd_targeted.n_target_classes
        assert ours["apgd-t"]["restarts"] == public.apgd_targeted.n_restarts
        assert ours["fab-t"]["targets"] == public.fab.n_target_classes
        assert ours["fab-t"]["restarts"] == public.fab.n_restarts
        assert ours["square"]["queries"] == public.square.n_queries
    code = pytest.importorskip("pyautoattack")
    public = code.AutoAttack(model, norm="Linf", eps=0.1, version="rand", device="cpu")
    ours = described(rand_attacks(THREAT, 10))
    assert list(ours) == public.attacks_to_run
    assert {values["eot"] for values in ours.values()} == {public.apgd.eot_iter}


def test_few_classes_have_fewer_targets_and_the_margin_and_say_so():
    for classes, targets in ((2, 1), (3, 2), (4, 3), (10, 9), (100, 9)):
        found = described(standard_attacks(THREAT, classes))
        assert found["apgd-t"]["targets"] == found["fab-t"]["targets"] == targets
        assert found["apgd-t"]["objective"] == ("targeted_dlr" if classes >= 4 else "targeted_margin")
    said = {attack.name: attack.description for attack in standard_attacks(THREAT, 3)}
    assert "no DLR" in said["apgd-t"]
    said = {attack.name: attack.description for attack in plus_attacks(THREAT, 2)}
    assert "2 classes have no DLR" in said["apgd-dlr"]
    assert described(plus_attacks(THREAT, 2))["apgd-dlr"]["objective"] == "margin"
    assert described(plus_attacks(THREAT, 3))["apgd-dlr"]["objective"] == "dlr"


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_linear_model_falls_exactly_where_it_can(norm, classes, monkeypatch):
    monkeypatch.setattr(MODULE, "QUERIES", 200)
    model, x = linear(classes), images(40)
    with torch.no_grad():
        y = model(x).argmax(1)
    distances = linear_distances(model[1].weight, model(x), y, norm)
    eps = float(distances.median())
    x_adv = autoattack(model, x, y, eps=eps, norm=norm, batch_size=25)
    with torch.no_grad():
        fell = model(x_adv).argmax(1) != y
    clear = (distances / eps - 1).abs() > 1e-4
    assert torch.equal(fell[clear], (distances < eps)[clear])
    assert 12 < int(fell.sum()) < 28


def test_the_versions_plus_and_rand_break_no_less_on_a_linear_model(monkeypatch):
    monkeypatch.setattr(MODULE, "QUERIES", 50)
    monkeypatch.setattr(MODULE, "EOT", 2)
    model, x = linear(2), images(40)
    with torch.no_grad():
        y = model(x).argmax(1)
    distances = linear_distances(model[1].weight, model(x), y, "Linf")
    eps = float(distances.median())
    clear = (distances / eps - 1).abs() > 1e-4
    for version in ("plus", "rand"):
        with torch.no_grad():
            fell = model(autoattack(model, x, y, eps=eps, version=version)).argmax(1) != y
        assert torch.equal(fell[clear], (distances < eps)[clear]), version


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.08), pytest.param("L2", 0.4, marks=pytest.mark.thorough)])
def test_it_leaves_no_more_than_the_public_standard_ensemble(digits_network, norm, eps):
    model, x, y = digits_network
    x, y = x[:100], y[:100]
    found = autoattack_outcome(model, x, y, eps=eps, norm=norm)
    code = pytest.importorskip("pyautoattack")
    public = code.AutoAttack(model, norm=norm, eps=eps, version="standard", seed=0, device="cpu")
    public.verbose = False
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    with torch.no_grad():
        theirs = int((model(public.run_standard_evaluation(x, y, batch_size=100)[0]).argmax(1) == y).sum())
        ours = int((model(found.outcome.x_adv).argmax(1) == y).sum())
    assert 10 < theirs < 90
    assert ours <= theirs
    assert found.standing[-1] == ours
    assert list(found.standing) == sorted(found.standing, reverse=True)


def few_steps(name, eps, **settings):
    """An attack of a cascade, too short to break everything."""

    def run(model, x, y, *, seed):
        return apgd.outcome(model, x, y, eps=eps, steps=3, seed=seed, **settings)

    return Attack(name, "", tuple(settings.items()), Threat("Linf", eps), run)


@given(seed=st.integers(0, 50), eps=st.floats(0.005, 0.05))
@settings(max_examples=20, deadline=None)
def test_a_cascade_is_the_worst_case_over_its_members_image_for_image(seed, eps):
    model, x = linear(4, seed=seed % 5), images(20, seed)
    y = torch.randint(4, (20,), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        y[:12] = model(x[:12]).argmax(1)
    parts = [few_steps("a", eps), few_steps("b", eps, objective="margin"), few_steps("c", eps, targets=3)]
    alone = [part.run(model, x, y, seed=seed) for part in parts]
    found = run_attacks(model, x, y, parts, seed=seed)
    broken = torch.stack([outcome.broken for outcome in alone])
    assert torch.equal(found.outcome.broken, broken.any(0))
    natural = alone[0].step == 0
    assert torch.equal(found.by >= 0, broken.any(0) & ~natural)
    first = broken.int().argmax(0)
    assert torch.equal(found.by[found.by >= 0], first[found.by >= 0])
    steps = torch.stack([outcome.step for outcome in alone]).gather(0, first[None])[0]
    assert torch.equal(found.outcome.step, torch.where(broken.any(0), steps, -1))
    assert [int(n) for n in found.standing] == [int((~broken[: i + 1].any(0)).sum()) for i in range(3)]
    assert float((found.outcome.x_adv - x).abs().max()) <= eps + 1e-6
    with torch.no_grad():
        assert torch.equal(model(found.outcome.x_adv).argmax(1) != y, found.outcome.broken)


def test_later_attacks_meet_only_what_stands():
    met = []

    def noting(name, falls):
        def run(model, x, y, *, seed):
            met.append((name, len(x)))
            broken = torch.arange(len(x)) < falls
            return Outcome(x + 0.0, broken, torch.where(broken, 1, -1), len(x), 0)

        return Attack(name, "", (), THREAT, run)

    x, y = images(10), torch.zeros(10, dtype=torch.long)
    found = run_attacks(nn.Identity(), x, y, [noting("a", 6), noting("b", 4), noting("c", 1)])
    assert met == [("a", 10), ("b", 4)]
    assert found.standing == (4, 0, 0)
    assert found.outcome.forwards == 14
    assert found.by.tolist() == [0] * 6 + [1] * 4


def test_neither_batch_size_nor_order_matters(monkeypatch):
    monkeypatch.setattr(MODULE, "QUERIES", 100)
    model, x = linear(5), images(24)
    with torch.no_grad():
        y = model(x).argmax(1)
    eps = float(linear_distances(model[1].weight, model(x), y, "Linf").median()) * 0.95
    whole = autoattack(model, x, y, eps=eps)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    for parts in (
        autoattack(model, x, y, eps=eps, batch_size=7),
        autoattack(model, x[order], y[order], eps=eps)[order.argsort()],
    ):
        assert torch.allclose(parts, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "fast"}, "version 'fast' is not one of standard, plus, rand"),
        ({"norm": "L0"}, "norm 'L0' is not one of Linf, L2, L1"),
        ({"batch_size": 0}, "batch_size must be >= 1, found 0"),
        ({"eps": 8}, "did you mean 8/255"),
    ],
)
def test_impossible_arguments_are_one_line(changes, words):
    with pytest.raises(ValueError, match=words):
        autoattack(linear(3), images(2), torch.tensor([0, 1]), **{"eps": 0.1, **changes})


def test_a_model_of_one_output_has_no_classes_to_attack():
    with pytest.raises(ValueError, match="2 classes or more"):
        count_classes(linear(1), images(2))
    with pytest.raises(ValueError, match="needs an image"):
        count_classes(linear(2), images(0))
    with pytest.raises(ValueError, match="at least one attack"):
        run_attacks(linear(2), images(1), torch.zeros(1, dtype=torch.long), [])


def test_no_images_give_no_images():
    assert autoattack(linear(3), images(0), torch.zeros(0, dtype=torch.long), eps=0.1).shape == (0, 1, 3, 4)
