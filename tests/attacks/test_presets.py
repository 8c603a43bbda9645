"""The named protocols: the papers' numbers, and what they run on each kind of head."""

import pytest
import torch
from torch import nn

from corral import attacks
from corral.attacks import LOG_20, MARGIN_20, PRESETS, PUBLISHED_20, PUBLISHED_20_LOG, PUBLISHED_100
from corral.attacks.pgd import pgd_outcome
from corral.attacks.threat import Threat
from corral.models import MLP, Classifier, ClusterHead, LinearHead


def classifiers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = MLP(4, (6,), 3, rectify=False)
        clusters = ClusterHead(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), 0.1)
        return (
            Classifier(backbone, LinearHead(3, 3), [0.5], [0.5]).eval(),
            Classifier(backbone, clusters, [0.5], [0.5]).eval(),
        )


@pytest.mark.parametrize(("protocol", "steps"), [(PUBLISHED_20, 20), (PUBLISHED_100, 100)])
def test_the_published_protocol_has_the_papers_numbers(protocol, steps):
    assert (protocol.steps, protocol.restarts, protocol.keep) == (steps, 10, "max_loss_restart")
    assert protocol.step_size_for(8 / 255) == protocol.step_size_for(0.3) == 2 / 255
    assert f"PGD-{steps}" in protocol.description


@pytest.mark.parametrize("protocol", [LOG_20, MARGIN_20])
def test_the_log_space_protocols_step_by_an_eighth_of_eps_and_count_every_iterate(protocol):
    assert (protocol.steps, protocol.restarts, protocol.keep) == (20, 5, "best")
    assert protocol.step_size_for(0.1) == pytest.approx(0.1 / 8)
    assert "step eps/8" in protocol.description


def test_protocols_are_found_by_their_names():
    assert {name: protocol.name for name, protocol in PRESETS.items()} == {
        name: name
        for name in (
            "pgd_published",
            "pgd_published_log",
            "pgd_published_100",
            "pgd_published_100_log",
            "pgd_published_100_magnet",
            "pgd_ce",
            "pgd_cw",
        )
    }


def test_the_presets_are_found_by_their_former_name_with_one_line():
    with pytest.warns(FutureWarning, match="PROTOCOLS is corral.attacks.PRESETS now"):
        assert attacks.PROTOCOLS is PRESETS


def test_the_control_differs_from_the_published_protocol_by_its_scores_alone():
    linear, clusters = classifiers()
    assert PUBLISHED_20_LOG.objective_for(clusters) == PUBLISHED_20_LOG.objective_for(linear) == "cross_entropy"
    for name in ("steps", "restarts", "step_size", "objective", "keep"):
        assert getattr(PUBLISHED_20_LOG, name) == getattr(PUBLISHED_20, name)


def test_exponentiated_scores_are_attacked_only_where_there_are_clusters():
    linear, clusters = classifiers()
    plain = nn.Linear(4, 3)
    for protocol in (PUBLISHED_20, PUBLISHED_100):
        assert protocol.objective_for(clusters) == "published_cross_entropy"
        assert protocol.objective_for(linear) == protocol.objective_for(plain) == "cross_entropy"
    for model in (linear, clusters, plain):
        assert LOG_20.objective_for(model) == "cross_entropy"
        assert MARGIN_20.objective_for(model) == "margin"


@pytest.mark.parametrize("name", ["pgd_published", "pgd_ce", "pgd_cw"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_protocol_is_pgd_with_its_own_numbers(name, norm):
    protocol = PRESETS[name]
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(5, 1, 2, 2, generator=generator), torch.arange(5) % 3
    for model in classifiers():
        attack = protocol.bound(model, Threat(norm, 0.1))
        found = attack.run(model, x, y, seed=2)
        expected = pgd_outcome(
            model,
            x,
            y,
            eps=0.1,
            norm=norm,
            steps=20,
            step_size=protocol.step_size_for(0.1),
            restarts=protocol.restarts,
            objective=protocol.objective_for(model),
            keep=protocol.keep,
            seed=2,
        )
        assert torch.equal(found.x_adv, expected.x_adv)
        assert torch.equal(found.step, expected.step)
        settings = dict(attack.settings)
        assert (settings["steps"], settings["restarts"]) == (20, protocol.restarts)
        assert settings["objective"] == protocol.objective_for(model)
        assert settings["step_size"] == protocol.step_size_for(0.1)
