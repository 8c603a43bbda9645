"""What a protocol attacks a method with."""

import pytest
from torch import nn

from corral.evaluation.protocols import protocol_attacks
from corral.training import load_recipe


@pytest.mark.parametrize(
    ("recipe", "loss"),
    [
        ("nominal", "cross_entropy"),
        ("at", "cross_entropy"),
        ("free-at", "cross_entropy"),
        ("corral", "cross_entropy"),
        ("trades", "kl"),
        ("clustr", "magnet"),
        ("magnet", "magnet"),
        ("mat-so", "mat"),
        ("mmc", "mmc"),
        ("at-mmc", "mmc"),
    ],
)
def test_adaptive_pgd_climbs_the_loss_that_the_method_trains_on(recipe, loss):
    method = load_recipe(recipe).method
    attacks = protocol_attacks("centred", nn.Identity(), eps=0.1, norm="Linf", classes=10, method=method)
    settings = next(dict(attack.settings) for attack in attacks if attack.name == "pgd_50_training")
    assert settings["objective"] == loss
    if loss == "mat":
        assert (settings["so_weight"], settings["bibo_weight"]) == (method.so_weight, method.bibo_weight)
