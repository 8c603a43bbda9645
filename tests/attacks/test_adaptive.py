"""The adaptive ensemble: its list, its worst case, its rivals in turn, and heads whose exact answer is known."""

import pytest
import torch
from torch import nn

from corral.attacks.adaptive import MOST_RIVALS, adaptive_attacks, adaptive_outcome, ensemble_adaptive
from corral.attacks.apgd.attack import apgd
from corral.attacks.threat import Threat
from corral.models import MLP, Classifier, ClusterHead, LinearHead

QUICK = {"steps": 12, "restarts": 2}


class Pixels(nn.Module):
    """Features are the pixels."""

    def forward(self, x):
        return x.flatten(1)


def bisectors(per_class=1, n=24, seed=0):
    """Clusters on twelve pixels near grey; labels are the nearest centroid's."""
    generator = torch.Generator().manual_seed(seed)
    centroids = 0.5 + 0.15 * torch.randn(4 * per_class, 12, generator=generator).double()
    head = ClusterHead(centroids, torch.arange(4).repeat_interleave(per_class), 0.01, "nearest")
    model = Classifier(Pixels(), head, [0.0], [1.0]).double().eval()
    x = (0.5 + 0.1 * torch.randn(n, 1, 3, 4, generator=generator, dtype=torch.float64)).clamp(0.2, 0.8)
    return model, x, model(x).argmax(1)


def exact(model, x, y, norm):
    """Distance to the nearest rival's bisector, one centroid a class, away from the box."""
    mu, points = model.head.centroids, x.flatten(1)
    squared = (points.unsqueeze(1) - mu).square().sum(2)
    lengths = torch.linalg.vector_norm(mu[y].unsqueeze(1) - mu, {"Linf": 1, "L2": 2}[norm], dim=2)
    gaps = (squared - squared.gather(1, y[:, None])) / (2 * lengths)
    return gaps.scatter(1, y[:, None], torch.inf).amin(1)


def perceptron(rule="soft", per_class=2, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = MLP(12, (16,), 6)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        centroids = backbone((torch.rand(4 * per_class, 1, 3, 4, generator=generator) - 0.5) / 0.3)
    head = ClusterHead(centroids, torch.arange(4).repeat_interleave(per_class), 0.05, rule)
    model = Classifier(backbone, head, [0.5], [0.3]).double().eval()
    x = torch.rand(20, 1, 3, 4, generator=generator, dtype=torch.float64)
    y = model(x).argmax(1)
    y[::7] = (y[::7] + 1) % 4
    return model, x, y


THREAT = Threat("Linf", 0.1)


def names(model):
    return [attack.name for attack in adaptive_attacks(model, threat=THREAT)]


def test_the_list_is_that_of_the_head():
    always = ["cross_entropy", "margin", "targeted_dlr"]
    several, _, _ = perceptron()
    one, _, _ = perceptron(per_class=1)
    assert names(nn.Identity()) == always
    assert names(several.with_head(LinearHead(6, 4))) == always
    assert names(several) == [*always, "magnet", "rival_centroids"]
    assert names(one) == [*always, "magnet", "rival_centroids", "mat"]


def test_settings_tell_members_apart_and_hold_what_decides_the_result():
    model, _, _ = perceptron(per_class=1)
    members = adaptive_attacks(model, threat=THREAT, steps=7, restarts=3, eot=2)
    assert len({(member.name, member.settings) for member in members}) == len(members)
    for member in members:
        values = dict(member.settings)
        assert (values["steps"], values["eot"]) == (7, 2)
        assert values["restarts"] == (1 if member.name in ("targeted_dlr", "rival_centroids") else 3)
        assert "7 steps" in member.description
        assert "averaged over 2 passes" in member.description
    assert dict(members[4].settings)["rivals"] == 3
    assert members[0].settings != adaptive_attacks(model, threat=THREAT, steps=8)[0].settings


def test_all_rivals_are_attacked_in_turn_up_to_a_stated_number():
    head = ClusterHead(
        torch.randn(6, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 0, 1, 1, 2]), 1
    )
    model = Classifier(Pixels(), head, [0.0], [1.0])
    # As many as the class with one centroid has.
    assert dict(adaptive_attacks(model, threat=THREAT)[-1].settings)["rivals"] == 5
    many = ClusterHead(torch.randn(60, 12, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2, 1)
    assert dict(adaptive_attacks(model.with_head(many), threat=THREAT)[-1].settings)["rivals"] == MOST_RIVALS


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.015), ("L2", 0.045)])
def test_one_centroid_a_class_on_the_pixels_falls_exactly_where_the_bisector_is_within_eps(norm, eps):
    model, x, y = bisectors(n=40)
    distances = exact(model, x, y, norm)
    assert 5 < int((distances < eps).sum()) < 35
    found = adaptive_outcome(model, x, y, eps=eps, norm=norm, steps=30, restarts=1).outcome
    clear = (distances - eps).abs() > 1e-3 * eps
    assert torch.equal(found.broken[clear], (distances < eps)[clear])
    # The rivals alone, each in turn, are enough: one of them is the nearest bisector's.
    members = adaptive_attacks(model, threat=Threat(norm, eps), steps=30, restarts=1)
    rivals = next(a for a in members if a.name == "rival_centroids")
    alone = rivals.run(model, x, y, seed=0)
    assert torch.equal(alone.broken[clear], (distances < eps)[clear])


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.06), ("L2", 0.2), ("L1", 0.3)])
@pytest.mark.parametrize("per_class", [1, 2])
def test_the_ensemble_is_the_worst_case_over_its_members_image_for_image(per_class, norm, eps):
    model, x, y = perceptron(per_class=per_class)
    members = adaptive_attacks(model, threat=Threat(norm, eps), **QUICK)
    alone = torch.stack([member.run(model, x, y, seed=3).broken for member in members])
    found = adaptive_outcome(model, x, y, eps=eps, norm=norm, seed=3, **QUICK)
    assert torch.equal(found.outcome.broken, alone.any(0))
    natural = model(x).argmax(1) != y
    fell = found.outcome.broken & ~natural
    assert bool(fell.any())
    # The first member that breaks an image alone is the one that broke it here.
    assert torch.equal(found.by[fell], alone.int().argmax(0)[fell])
    assert bool((found.by[~fell] == -1).all())
    assert torch.equal(found.outcome.step > 0, fell)
    with torch.no_grad():
        assert torch.equal(model(found.outcome.x_adv).argmax(1) != y, found.outcome.broken)
    order = {"Linf": torch.inf, "L2": 2, "L1": 1}[norm]
    moved = torch.linalg.vector_norm((found.outcome.x_adv - x).flatten(1), order, dim=1)
    assert float(moved.max()) <= eps * (1 + 1e-6)
    assert float(found.outcome.x_adv.min()) >= 0
    assert float(found.outcome.x_adv.max()) <= 1


def test_results_do_not_depend_on_the_batch_and_follow_the_seed():
    model, x, y = perceptron(per_class=1)

    def run(a, b, seed=0):
        return ensemble_adaptive(model, a, b, eps=0.05, seed=seed, **QUICK)

    whole = run(x, y)
    assert torch.equal(whole, run(x, y))
    assert not torch.equal(whole, run(x, y, seed=1))
    parts = torch.cat([run(a, b) for a, b in zip(x.split(3), y.split(3), strict=True)])
    assert torch.allclose(whole, parts, rtol=0, atol=1e-6)


def test_a_later_rival_starts_elsewhere_and_counts_its_steps_after_the_earlier_ones():
    model, x, y = bisectors(per_class=2, n=60, seed=2)
    steps = 6
    members = adaptive_attacks(model, threat=Threat("Linf", 0.04), steps=steps, restarts=1)
    rivals = next(a for a in members if a.name == "rival_centroids")
    found = rivals.run(model, x, y, seed=0)
    late = found.step > steps + 1
    assert bool(late.any())  # the nearest rival was not the one to reach
    assert int(found.step.max()) <= 6 * (steps + 1)


class Noisy(nn.Module):
    """Answers at random: unseen by a single pass, the gradient is nearly all noise."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.passes = scale, 0
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        self.passes += 1
        flat = x.flatten(1)
        noise = self.scale * torch.randn(flat.shape, generator=self.generator, dtype=flat.dtype)
        own = (flat * (1 + noise)).sum(1)
        return torch.stack([own, torch.full_like(own, 6.0)], 1)


def test_gradients_are_averaged_over_eot_passes():
    x = torch.full((4, 1, 3, 4), 0.55, dtype=torch.float64)
    y = torch.zeros(4, dtype=torch.long)
    member = adaptive_attacks(Noisy(0.0), threat=Threat("Linf", 0.01), steps=5, restarts=1, eot=7)[0]
    model = Noisy(0.0)
    found = member.run(model, x, y, seed=0)
    assert not bool(found.broken.any())  # 12 * 0.54 > 6
    # The clean pass, five steps and the last point, each seven times.
    assert model.passes == 7 * (1 + 5 + 1)
    assert (found.forwards, found.backwards) == (4 * 7 * 7, 4 * 7 * 5)


def test_a_module_without_centroids_is_attacked_by_its_logits_and_left_as_it_was():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double().train()
    x = torch.rand(10, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    model.train()
    found = adaptive_outcome(model, x, y, eps=0.1, **QUICK)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    weakest = apgd.outcome(model, x, y, eps=0.1, steps=12, restarts=2)
    assert not bool((weakest.broken & ~found.outcome.broken).any())
    assert bool(found.outcome.broken.any())


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"restarts": 0}, {"eot": 0}])
def test_numbers_below_one_are_refused(wrong):
    model, x, y = perceptron()
    with pytest.raises(ValueError, match="must be >= 1"):
        ensemble_adaptive(model, x, y, eps=0.1, **wrong)
    with pytest.raises(ValueError, match=r"pixels must be in \[0, 1\]"):
        ensemble_adaptive(model, x + 1, y, eps=0.1)
