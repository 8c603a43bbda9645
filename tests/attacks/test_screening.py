"""The screening figure: what it leaves on a linear model, what it costs, and that it is called what it is."""

import pytest
import torch
from tests.oracles import linear_distances
from torch import nn

from corral.attacks.attacked_model import AttackedModel
from corral.attacks.autoattack import standard_attacks
from corral.attacks.engine import run_attacks
from corral.attacks.protocols import PROTOCOLS
from corral.attacks.threat import Threat
from corral.report.words import attack_title


def linear(classes=10, n=80, pixels=12):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double().eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, pixels, generator=generator))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    # Away from the walls of the box, where the distances are those of the half-spaces alone.
    x = 0.5 + 0.2 * (torch.rand(n, 1, 1, pixels, generator=generator, dtype=torch.float64) - 0.5)
    return model, x, model(x).argmax(1)


def screened(model, x, y, threat, classes=10):
    (attack,) = PROTOCOLS["screening"].attacks(AttackedModel(model, classes), threat)
    return attack, attack.run(model, x, y, seed=0)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_it_leaves_what_a_linear_model_has_robust_and_next_to_nothing_more(norm, classes):
    model, x, y = linear(classes)
    distances = linear_distances(model[1].weight.detach(), model(x).detach(), y, norm)
    eps = float(distances.median())
    _, found = screened(model, x, y, Threat(norm, eps), classes)
    assert not bool((found.broken & (distances > eps * 1.0001)).any())
    assert int((~found.broken & (distances < eps)).sum()) <= 1


def test_it_makes_a_tenth_of_the_backward_passes_of_autoattack():
    model, x, y = linear()
    threat = Threat("Linf", 0.005)
    whole = run_attacks(model, x, y, standard_attacks(threat, 10)[:3])  # Square makes none
    _, found = screened(model, x, y, threat)
    assert found.backwards / whole.backwards == pytest.approx(0.1, abs=0.02)


def test_it_is_called_a_screening_figure_wherever_it_is_named():
    attack, _ = screened(*linear(n=4), Threat("Linf", 0.02))
    assert attack.name == "screening"
    assert attack.description.startswith("a screening figure, an estimate")
    assert "not a measurement" in attack.description
    assert attack_title(attack.name) == "Screening figure (estimate of AutoAttack)"
    assert dict(attack.settings) == {"steps": 20, "targeted_steps": 40, "targets": 4, "restarts": 1}
