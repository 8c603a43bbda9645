"""Attacks by name: what is registered, how settings are read, and what an outsider's function gets and may not do."""

import pytest
import torch
from torch import nn

import corral
from corral.attacks.adaptive import adaptive_attacks
from corral.attacks.attacked_model import AttackedModel
from corral.attacks.autoattack import plus_attacks, standard_attacks
from corral.attacks.function import attack_function
from corral.attacks.presets import PRESETS
from corral.attacks.protocols import PROTOCOLS, register_protocol
from corral.attacks.registry import ATTACKS, named_attack, parse_attack, register_attack
from corral.attacks.threat import Threat
from corral.attacks.training_loss import TrainingLoss
from corral.errors import CorralError, UsageError
from corral.models import MLP, Classifier, ClusterHead

THREAT = Threat("Linf", 0.1)


def images(n, seed=0):
    return torch.rand(n, 1, 2, 3, generator=torch.Generator().manual_seed(seed))


def network(classes=4):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, classes)).eval()


def clusters():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier(MLP(6, (8,), 5), ClusterHead(torch.randn(4, 5), torch.arange(4), 1.0), [0.5], [1.0]).eval()


def target(model=None, classes=4, **more):
    return AttackedModel(model or network(), classes, **more)


@pytest.mark.parametrize("name", ATTACKS.names())
def test_every_attack_binds_and_runs_by_its_name(name):
    """On a model of every property that an attack may ask for: centres of one a class, all of equal length."""
    head = ClusterHead(torch.eye(4, 5) * 3, torch.arange(4), 1.0)
    model = clusters().with_head(head).eval()
    x = images(6)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 4
    settings = {key: 2 for key in ("steps", "restarts", "queries", "searches") if key in ATTACKS[name].options}
    threat = Threat("L2", 0.3) if name in ("ddn", "deepfool", "carlini_wagner") else THREAT
    training = TrainingLoss("cross_entropy", "cross_entropy")
    attack = ATTACKS[name].bind(threat, target(model, training_loss=lambda: training), **settings)
    found = attack.run(model, x, y, seed=0)
    assert found.broken[0]
    assert found.step[0] >= 0
    moved = (found.x_adv - x).flatten(1)
    length = moved.norm(dim=1) if threat.norm == "L2" else moved.abs().amax(1)
    assert float(length.max()) <= threat.eps * (1 + 1e-5)
    with torch.no_grad():
        assert torch.equal(model(found.x_adv).argmax(1) != y, found.broken)
    assert all(isinstance(value, int | float | str | bool) for _, value in attack.settings)
    assert {key: dict(attack.settings)[key] for key in settings} == settings


def test_members_of_protocols_are_the_attacks_of_their_names():
    for attack in (*standard_attacks(THREAT, 4), *plus_attacks(THREAT, 4)[1:2]):
        given = {"restarts": 5} if attack.name == "apgd-dlr" else {}
        found = ATTACKS[attack.name].bind(THREAT, target(), **given)
        assert (dict(found.settings), found.description) == (dict(attack.settings), attack.description)
    model = clusters()
    for attack in adaptive_attacks(model, threat=THREAT):
        found = ATTACKS[attack.name].bind(THREAT, target(model))
        assert (found.settings, found.description) == (attack.settings, attack.description)
    for name, preset in PRESETS.items():
        found, expected = ATTACKS[name].bind(THREAT, target(model)), preset.bound(model, THREAT)
        assert (found.settings, found.description) == (expected.settings, expected.description)


def test_a_step_size_is_of_the_threat_that_the_attack_is_bound_to():
    for eps in (0.1, 0.4):
        attack = ATTACKS["pgd"].bind(Threat("Linf", eps), target(), steps=5)
        assert dict(attack.settings)["step_size"] == pytest.approx(eps / 2)
        with pytest.raises(TypeError, match="eps"):
            attack.run(network(), images(1), torch.zeros(1, dtype=torch.long), eps=0.2, seed=0)


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("pgd:steps=50,restarts=3", "pgd:steps=50,restarts=3", {"steps": 50, "restarts": 3, "step_size": 0.005}),
        ("pgd:step_size=2/255", "pgd:step_size=2/255", {"step_size": 2 / 255}),
        (
            "pgd:objective=margin,keep=max_loss_restart",
            None,
            {"objective": "margin", "success_rule": "max_loss_restart"},
        ),
        ("mi-fgsm: steps = 3 , momentum=1", None, {"steps": 3, "momentum": 1.0}),
        ("mi-fgsm", "mi-fgsm", {"steps": 10, "momentum": 1.0}),
        ("square:queries=7", None, {"queries": 7, "restarts": 1, "objective": "margin"}),
    ],
)
def test_settings_are_read_from_text(text, name, settings):
    attack = parse_attack(text)(THREAT, target())
    assert settings.items() <= dict(attack.settings).items()
    assert name in (attack.name, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pdg", "unknown attack 'pdg'; did you mean 'pgd'"),
        ("pdg:steps=3", "unknown attack 'pdg'; did you mean 'pgd'"),
        ("pgd:step=3", "attack pgd has no setting 'step'; did you mean 'steps'.; it has steps=40"),
        ("pgd:steps", "settings of an attack are key=value,key=value, found 'steps'"),
        ("pgd:steps=many", "setting steps takes a whole number, found 'many'"),
        ("pgd:steps=2.5", "setting steps takes a whole number, found '2.5'"),
        ("pgd:steps=0", "attack pgd: steps must be >= 1, found 0"),
        ("pgd:keep=last", r"setting keep takes best\|max_loss_restart, found 'last'"),
        ("pgd:objective=margn", "attack pgd: unknown objective 'margn'; did you mean 'margin'"),
        ("pgd:eps=0.3", "attack pgd has no setting 'eps'"),
        ("pgd_ce:steps=3", "attack pgd_ce has no setting 'steps'; it has none"),
        ("ddn", "attack ddn knows the norm L2, the threat is Linf eps 0.1"),
        ("magnet", "attack magnet needs a cluster head"),
        ("mat", "attack mat needs a cluster head of one centroid a class"),
        ("training_loss", "the loss that the model was trained with is not known"),
        ("pgd_50_training", "the loss that the model was trained with is not known"),
    ],
)
def test_what_cannot_be_is_one_line(text, words):
    with pytest.raises(UsageError, match=words) as caught:
        parse_attack(text)(THREAT, target())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", ["centred", "adaptive"])
def test_no_protocol_takes_cross_entropy_for_a_loss_that_nobody_knows(protocol):
    with pytest.raises(UsageError, match="the loss that the model was trained with is not known"):
        PROTOCOLS[protocol].attacks(target(), THREAT)


OUTSIDE = '''
"""An attack that knows nothing of corral."""
import torch


def toward_grey(model, x, y, *, eps, norm="Linf", share=1.0, generator=None):
    """Move to grey, and a little at random."""
    noise = torch.rand(x.shape, generator=generator) * 1e-3
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    return (x + share * (0.5 + noise - x).clamp(-eps, eps)).clamp(0, 1)
'''


def test_a_function_in_a_file_is_an_attack_whose_success_is_measured(tmp_path):
    (tmp_path / "outside.py").write_text(OUTSIDE)
    model, x = network().train(), images(40)
    y = model(x).argmax(1)
    attack = parse_attack(f"{tmp_path}/outside.py:toward_grey:share=0.5")(THREAT, target(model))
    assert (attack.name, dict(attack.settings)) == ("toward_grey:share=0.5", {"share": 0.5})
    assert attack.description == "Move to grey, and a little at random"
    found, again, other = (attack.run(model, x, y, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(found.x_adv, again.x_adv)
    assert not torch.equal(found.x_adv, other.x_adv)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(found.x_adv).argmax(1) != y, found.broken)
    with pytest.raises(UsageError, match=r"outside.py has no 'toward_gray'; did you mean 'toward_grey'"):
        parse_attack(f"{tmp_path}/outside.py:toward_gray")


def test_the_decorator_registers_and_the_record_has_the_name():
    before = torch.random.get_rng_state()

    @corral.register.attack("test-noise")
    def noise(model, x, y, *, eps, amount: float = 0.5):
        return (x + amount * eps * torch.randn_like(x).sign()).clamp(0, 1)

    model, x = network(), images(5)
    y = model(x).argmax(1)
    attack = parse_attack("test-noise:amount=1")(THREAT, target(model))
    assert (attack.name, attack.settings) == ("test-noise:amount=1", (("amount", 1.0),))
    # Draws of the global stream follow the seed, and leave no trace in it.
    assert torch.equal(attack.run(model, x, y, seed=1).x_adv, attack.run(model, x, y, seed=1).x_adv)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert float((noise(model, x, y, eps=0.2) - x).abs().max()) <= 0.1 + 1e-6
    with pytest.raises(UsageError, match="attack test-noise knows the norm Linf, the threat is L2"):
        ATTACKS["test-noise"].bind(Threat("L2", 0.1), target())
    with pytest.raises(UsageError, match="is registered already"):
        register_attack("pgd")(lambda model, x, y, *, eps: x)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda x: x + 0.2, r"0.2 away in Linf, eps is 0.1: project it"),
        (lambda x: x - 2, r"pixels that are not finite or not in \[0, 1\]: clip them"),
        (lambda x: x / 0, "not finite"),
        (lambda x: x[:1], r"must return images torch.float32 \(3, 1, 2, 3\), found torch.float32 \(1, 1, 2, 3\)"),
        (lambda x: x.double(), "found torch.float64"),
    ],
)
def test_images_that_no_attack_may_return_are_named(returned, words):
    attack = attack_function()(lambda model, x, y, *, eps: returned(x))
    with pytest.raises(CorralError, match=words):
        attack(network(), 0.3 + 0.1 * images(3), torch.zeros(3, dtype=torch.long), eps=0.1)


def test_arguments_go_by_place_or_by_name():
    attack = attack_function()(lambda model, images, labels, *, eps: (images + eps).clamp(0, 1))
    model, x, y = network(), images(3), torch.zeros(3, dtype=torch.long)
    assert torch.equal(attack(model, x, y, eps=0.1), attack(labels=y, eps=0.1, images=x, model=model))


def test_no_images_reach_no_attack():
    attack = attack_function()(lambda model, x, y, *, eps: 1 / 0)
    assert attack(network(), images(0), torch.zeros(0, dtype=torch.long), eps=0.1).shape == (0, 1, 2, 3)


@pytest.mark.parametrize("thing", [3, "pgd", lambda x: x, lambda model, x, y, *, eps, steps: x])
def test_what_is_no_attack_is_told_what_it_should_be(thing):
    with pytest.raises(TypeError, match="it should"):
        named_attack(thing)


def test_a_protocol_from_outside_is_a_list_of_bound_attacks():
    @register_protocol("test-two", "two attacks", ensemble="both")
    def two(target, threat):
        return tuple(ATTACKS[name].bind(threat, target, steps=2) for name in ("pgd", "mi-fgsm"))

    protocol = PROTOCOLS["test-two"]
    assert [attack.name for attack in protocol.attacks(target(), THREAT)] == ["pgd", "mi-fgsm"]
    assert (protocol.summary, protocol.ensemble, two.protocol) == ("two attacks", "both", protocol)
    with pytest.raises(UsageError, match="unknown protocol 'quik'; did you mean 'quick'"):
        PROTOCOLS.find("quik")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pgd:step_size=2", r"attack pgd: step_size 2 exceeds the pixel range \[0, 1\]; did you mean 2/255\?"),
        ("mi-fgsm:step_size=2", "attack mi-fgsm: step_size 2 exceeds"),
        ("mi-fgsm:steps=0", "attack mi-fgsm: steps must be >= 1, found 0"),
        ("square:queries=-1", "attack square: queries must be >= 1, found -1"),
    ],
)
def test_impossible_numbers_are_refused_when_an_attack_is_bound(text, message):
    with pytest.raises(UsageError, match=message):
        parse_attack(text)(THREAT, target(network()))
