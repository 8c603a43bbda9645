"""Targeted PGD and DDN: labels are the classes to reach, exactly on linear models, and as Foolbox means it."""

import pytest
import torch
from torch import nn

from corral.attacks import ddn, pgd
from corral.attacks.ddn import ddn as ddn_attack
from corral.attacks.pgd import pgd_outcome


def linear(classes=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, classes)).double()
    model[1].weight.data = torch.randn(classes, 12, generator=generator, dtype=torch.float64)
    model[1].bias.data = -model[1].weight.data.sum(1) / 2
    return model


def problem(classes=2, n=60, seed=0):
    """Images away from the box's walls, and the class that comes second for each."""
    model = linear(classes, seed)
    x = 0.4 + 0.2 * torch.rand(n, 1, 3, 4, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    with torch.no_grad():
        return model, x, model(x).topk(2, 1).indices[:, 1]


def to_target(model, x, target, order):
    """(N,) distances from the own class's half-space boundary to the target's, two classes alone considered."""
    weight, logits = model[1].weight.detach(), model(x).detach()
    own = logits.argmax(1)
    gap = logits.gather(1, own[:, None]) - logits.gather(1, target[:, None])
    return gap[:, 0] / torch.linalg.vector_norm(weight[own] - weight[target], order, dim=1)


@pytest.mark.parametrize(("norm", "dual"), [("Linf", 1), ("L2", 2)])
@pytest.mark.parametrize("keep", ["best", "max_loss_restart", "last"])
@pytest.mark.parametrize("objective", ["cross_entropy", "margin"])
def test_pgd_reaches_the_target_exactly_where_its_half_space_is_within_eps(norm, dual, keep, objective):
    model, x, target = problem()
    distances = to_target(model, x, target, dual)
    eps = float(distances.median())
    clear = (distances / eps - 1).abs() > 1e-3
    found = pgd(
        model, x, target, eps=eps, norm=norm, steps=30, step_size=eps / 5, objective=objective, keep=keep, targeted=True
    )
    with torch.no_grad():
        reached = model(found).argmax(1) == target
    assert 20 < int(reached.sum()) < 40
    assert torch.equal(reached[clear], (distances < eps)[clear])


def test_an_image_of_its_target_is_done_before_the_first_step():
    model, x, _ = problem()
    with torch.no_grad():
        own = model(x).argmax(1)
    found = pgd_outcome(model, x, own, eps=0.1, steps=3, step_size=0.05, targeted=True)
    assert torch.equal(found.x_adv, x)
    assert found.step.unique().tolist() == [0]
    assert bool(found.broken.all())
    nearest = ddn_attack.outcome(model, x, own, targeted=True)
    assert torch.equal(nearest.x_adv, x)
    assert bool(nearest.natural.all())
    assert bool((nearest.distances == 0).all())


def test_ddn_ends_at_the_distance_of_the_target_s_half_space():
    model, x, target = problem()
    found = ddn_attack.outcome(model, x, target, targeted=True)
    distances = to_target(model, x, target, 2)
    assert bool(found.broken.all())
    assert bool((found.distances >= distances * (1 - 1e-9)).all())
    assert bool((found.distances <= distances * 1.002).all())
    with torch.no_grad():
        assert torch.equal(model(found.x_adv).argmax(1), target)


def test_among_many_classes_ddn_is_of_the_target_and_no_nearer_than_its_half_space():
    model, x, _ = problem(classes=6, n=40, seed=3)
    with torch.no_grad():
        target = model(x).topk(4, 1).indices[:, 3]
    found = ddn_attack.outcome(model, x, target, steps=200, targeted=True)
    untargeted = ddn_attack.outcome(model, x, model(x).argmax(1), steps=200)
    reached = found.broken
    assert float(reached.float().mean()) > 0.95
    with torch.no_grad():
        assert torch.equal(model(found.x_adv[reached]).argmax(1), target[reached])
    assert bool((found.distances >= to_target(model, x, target, 2) * (1 - 1e-9))[reached].all())
    assert bool((found.distances >= untargeted.distances * (1 - 1e-6)).all())


def test_toward_a_target_is_away_from_nothing_else():
    """On two classes, to reach the other class and to leave one's own are the same attack."""
    model, x, target = problem()
    own = 1 - target
    same = {"eps": 0.02, "steps": 7, "step_size": 0.01, "restarts": 2, "seed": 3}
    one, other = (
        pgd_outcome(model, x, labels, targeted=targeted, **same) for labels, targeted in ((target, True), (own, False))
    )
    assert torch.equal(one.broken, other.broken)
    torch.testing.assert_close(one.x_adv, other.x_adv, atol=1e-12, rtol=0)
    torch.testing.assert_close(ddn(model, x, target, targeted=True), ddn(model, x, own), atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_walks_the_points_of_foolbox_s_targeted_pgd(norm):
    foolbox = pytest.importorskip("foolbox")
    model, x, _ = problem(classes=5, seed=2)
    model, x = model.float(), x.float()
    with torch.no_grad():
        target = model(x).topk(3, 1).indices[:, 2]
    eps = 0.05 if norm == "Linf" else 0.1
    kind = foolbox.attacks.LinfPGD if norm == "Linf" else foolbox.attacks.L2PGD
    attack = kind(rel_stepsize=0.1, steps=12, random_start=False)
    wrapped = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
    criterion = foolbox.criteria.TargetedMisclassification(target)
    points, _, success = attack(wrapped, x, criterion, epsilons=eps)
    ours = pgd_outcome(
        model,
        x,
        target,
        eps=eps,
        norm=norm,
        steps=12,
        step_size=0.1 * eps,
        random_start=False,
        keep="max_loss_restart",
        targeted=True,
    )
    torch.testing.assert_close(ours.x_adv, points, atol=1e-5, rtol=0)
    assert torch.equal(ours.broken, success)
    assert 0 < int(success.sum()) < len(x)


def test_ddn_is_no_farther_than_foolbox_s_toward_the_same_targets():
    foolbox = pytest.importorskip("foolbox")
    model, x, _ = problem(classes=5, n=30, seed=4)
    model, x = model.float().eval(), x.float()
    with torch.no_grad():
        target = model(x).topk(2, 1).indices[:, 1]
    criterion = foolbox.criteria.TargetedMisclassification(target)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    points, _, success = foolbox.attacks.DDNAttack(steps=100)(wrapped, x, criterion, epsilons=None)
    ours = ddn_attack.outcome(model, x, target, targeted=True)
    assert bool(success.all())
    assert bool(ours.broken.all())
    theirs = (points - x).flatten(1).norm(dim=1)
    assert float(ours.distances.mean()) <= float(theirs.mean())
