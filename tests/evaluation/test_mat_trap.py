"""MAT's trap on a trained network: equal features and decisions, masked or not by the length of the centres alone."""

import pytest
import torch

from corral.attacks.centred import CROSS_ENTROPY, centred_attacks
from corral.attacks.threat import Threat
from corral.audit.diagnostics import diagnose
from corral.data import load, stratified_subset
from corral.models import ClusterHead
from corral.training import load_model, train

EPS = 0.1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """MAT's first term on digits, 40 test images and their labels; the loss does not see how long centres are."""
    folder = tmp_path_factory.mktemp("mat") / "run"
    train("mat-ftc", out=folder, progress=False, **{"training.epochs": 8, "data.train": 800, "model.width": 8})
    images = stratified_subset(load("digits").test, 40, seed=0)
    return load_model(folder)[0].eval(), images.float(), images.labels


def with_length(model, length):
    centres = model.head.centroids / model.head.centroids.norm(dim=1, keepdim=True)
    return model.with_head(ClusterHead(length * centres, model.head.classes, 1.0)).eval()


def kept(model, x, y, name):
    attack = next(
        one for one in centred_attacks(model, threat=Threat("Linf", EPS), training=CROSS_ENTROPY) if one.name == name
    )
    return float((model(attack.run(model, x, y, seed=0).x_adv).argmax(1) == y).float().mean())


def test_long_centres_give_the_published_attack_nothing_and_change_no_decision(trained):
    model, x, y = trained
    short, long = with_length(model, 1.0), with_length(model, 1e4)
    assert torch.equal(short(x).argmax(1), long(x).argmax(1))
    clean = float((short(x).argmax(1) == y).float().mean())
    assert clean > 0.8
    assert kept(short, x, y, "pgd_50") < clean - 0.2
    assert kept(long, x, y, "pgd_50") > kept(short, x, y, "pgd_50") + 0.15
    # The centre loss has no softmax: it sees the way at any length.
    assert kept(long, x, y, "pgd_50_mmc") < clean - 0.2


def test_the_diagnostics_name_the_saturated_softmax(trained):
    model, x, y = trained
    found = diagnose(with_length(model, 1e4), x, y, eps=EPS, progress=False)
    assert found.verdict == "masked"
    masked = {finding.name for finding in found.findings if finding.verdict == "masked"}
    assert {"gradient_underflow", "other_objective"} <= masked
    honest = diagnose(with_length(model, 1.0), x, y, eps=EPS, progress=False)
    assert honest.verdict == "pass", [f.name for f in honest.findings if f.verdict == "masked"]
