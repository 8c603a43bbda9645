"""The attacks of MMC and MAT: closed forms, slow twins, and the softmax that long features saturate."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from corral.attacks.balls import start_in_ball
from corral.attacks.centred import CROSS_ENTROPY, TrainingLoss, centred_attacks, random_targets
from corral.attacks.noise import image_keys
from corral.attacks.objectives import value_and_gradient
from corral.attacks.rivals import MatObjective, MmcObjective
from corral.attacks.threat import Threat
from corral.geometry import max_mahalanobis_centres
from corral.models import MLP, Classifier, ClusterHead, LinearHead
from corral.models.backbones import Backbone
from corral.models.centre_logits import CentreLogits

EPS = 0.1


class Scaled(Backbone):
    """Features that are `length` times a fixed linear map of the pixels."""

    def __init__(self, pixels: int, features: int, length: float, seed: int = 0) -> None:
        super().__init__()
        self.features_dim = features
        weight = torch.randn(features, pixels, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(length * weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight.T


def linear_problem(length: float, count: int = 60):
    """A classifier with one centre a class whose decision is linear in the pixels, images and its own decisions."""
    torch.manual_seed(0)
    centres = max_mahalanobis_centres(3, 2, length=10.0)
    model = Classifier(Scaled(6, 2, length), ClusterHead(centres, torch.arange(3), 1.0), [0.5], [1.0]).eval()
    x = 0.25 + 0.5 * torch.rand(count, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


def really_robust(model, x, y):
    """Which images keep their class in the whole Linf ball: the logits are linear, so a corner decides each rival."""
    rows = model.head.centroids @ model.backbone.weight
    logits = model(x)
    worst = logits - logits.gather(1, y.unsqueeze(1)) + EPS * (rows[None] - rows[y][:, None]).abs().sum(2)
    return worst.scatter(1, y.unsqueeze(1), -torch.inf).amax(1) < 0


def attacks_on(model, training=CROSS_ENTROPY, eps=EPS):
    return centred_attacks(model, threat=Threat("Linf", eps), training=training)


def named(model, name, **given):
    return next(attack for attack in attacks_on(model, **given) if attack.name == name)


def kept(model, x, y, name, **given):
    attack = named(model, name, **given)
    found = attack.run(model, x, y, seed=0).x_adv
    assert float((found - x).abs().max()) <= EPS + 1e-6
    return model(found).argmax(1) == y


def test_what_is_run_is_what_the_papers_say():
    model = linear_problem(1.0)[0]
    found = {attack.name: dict(attack.settings) for attack in attacks_on(model, eps=8 / 255)}
    assert list(found) == [
        "pgd_10", "pgd_10_targeted", "pgd_50", "pgd_50_targeted", "pgd_50_training", "pgd_50_mmc",
        "pgd_50_cosine", "pgd_50_length_10", "pgd_50_length_3", "pgd_50_length_1",
    ]  # fmt: skip
    lengths = {name: settings["centre_length"] for name, settings in found.items() if "centre_length" in settings}
    assert lengths == {f"pgd_50_length_{length}": length for length in (10, 3, 1)}
    assert {name: settings["steps"] for name, settings in found.items()} == {name: int(name[4:6]) for name in found}
    assert all(settings["step_size"] == pytest.approx(2 / 255) for settings in found.values())
    assert all(settings["restarts"] == 1 for settings in found.values())


def test_the_centre_loss_is_attacked_only_where_a_class_has_one_centre():
    several = Classifier(MLP(6, (8,), 5), ClusterHead(torch.randn(4, 5), torch.tensor([0, 0, 1, 2]), 1.0), [0.5], [1.0])
    linear = Classifier(MLP(6, (8,), 5), LinearHead(5, 3), [0.5], [1.0])
    for model in (several, linear):
        assert "pgd_50_mmc" not in [attack.name for attack in attacks_on(model)]
    x, y = torch.rand(3, 1, 2, 3), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="one centroid a class, the head has up to 2"):
        MmcObjective().bind(several, x, y)
    with pytest.raises(ValueError, match="need a corral Classifier with a ClusterHead"):
        MmcObjective().bind(linear, x, y)


def test_the_centre_loss_is_half_the_square_and_its_gradient_the_difference():
    model, x, y = linear_problem(1.0)
    values, logits, gradient = value_and_gradient(MmcObjective().bind(model, x, y), x, torch.arange(len(x)))
    features = model.features(x).detach()
    apart = features - model.head.centroids[y]
    torch.testing.assert_close(values, torch.stack([(row * row).sum() / 2 for row in apart]))
    torch.testing.assert_close(logits, model(x).detach())
    torch.testing.assert_close(gradient.flatten(1), (apart @ model.backbone.weight).detach())


@settings(deadline=None, max_examples=30)
@given(classes=st.integers(2, 12), seed=st.integers(-5, 2**40), count=st.integers(1, 40))
def test_a_target_is_another_class_and_belongs_to_the_image(classes, seed, count):
    generator = torch.Generator().manual_seed(count)
    x = torch.rand(count, 1, 3, 3, generator=generator)
    y = torch.randint(classes, (count,), generator=generator)
    found = random_targets(x, y, classes, seed)
    assert bool((found != y).all())
    assert int(found.min()) >= 0
    assert int(found.max()) < classes
    turned = torch.randperm(count, generator=generator)
    assert torch.equal(random_targets(x[turned], y[turned], classes, seed), found[turned])


def test_targets_are_uniform_over_the_other_classes():
    x = torch.rand(9000, 1, 1, 4, generator=torch.Generator().manual_seed(0))
    y = torch.full((9000,), 3)
    counts = torch.bincount(random_targets(x, y, 10, 0), minlength=10).double()
    assert counts[3] == 0
    expected = 1000.0
    others = torch.cat([counts[:3], counts[4:]])
    # Chi-square with 8 degrees of freedom: 26.1 is exceeded once in a thousand.
    assert float(((others - expected) ** 2 / expected).sum()) < 26.1
    assert not torch.equal(random_targets(x, y, 10, 1), random_targets(x, y, 10, 0))


def test_the_targeted_attack_descends_the_cross_entropy_toward_its_target():
    """A twin by hand: the same start, sign steps, projections."""
    model, x, y = linear_problem(0.3)
    attack = named(model, "pgd_10_targeted")
    found = attack.run(model, x, y, seed=7).x_adv
    targets = random_targets(x, y, 3, 7)
    points = start_in_ball(x, EPS, "Linf", image_keys(x, 7), 0)
    for _ in range(10):
        points = points.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(model(points), targets, reduction="sum"), points)
        points = (points - EPS / 4 * slope.sign()).detach()
        points = torch.maximum(torch.minimum(points, x + EPS), x - EPS).clamp(0, 1)
    torch.testing.assert_close(found, points)


def test_on_a_gentle_model_every_objective_finds_the_exact_robust_images_of_two_classes():
    model, x, _ = linear_problem(0.3)
    head = ClusterHead(max_mahalanobis_centres(2, 2, length=1.0), torch.arange(2), 1.0)
    model = model.with_head(head)
    y = model(x).argmax(1)
    exact = really_robust(model, x, y)
    assert 0 < int(exact.sum()) < len(exact)
    for name in ("pgd_10", "pgd_50", "pgd_50_targeted"):
        assert torch.equal(kept(model, x, y, name), exact), name


def test_long_features_hide_the_way_from_the_cross_entropy_but_not_from_the_training_losses():
    """MAT's trap: the decision is the same at every length, the softmax of f · mu is not."""
    gentle, x, y = linear_problem(1.0)
    long, _, _ = linear_problem(1000.0)
    exact = really_robust(gentle, x, y)
    assert torch.equal(really_robust(long, x, y), exact)
    assert float(exact.float().mean()) < 0.5
    attack = named(long, "pgd_50")
    start = start_in_ball(x, EPS, "Linf", image_keys(x, 0), 0)
    stuck = long(start).argmax(1) == y
    assert float(stuck.float().mean()) > 0.8
    assert torch.equal(attack.run(long, x, y, seed=0).x_adv[stuck], start[stuck])
    training = TrainingLoss("mat", MatObjective(so_weight=0.0, bibo_weight=0.0))
    left = kept(long, x, y, "pgd_50_training", training=training)
    assert float(left.float().mean()) < float(exact.float().mean()) + 0.1
    assert bool((left | ~exact).all())


@pytest.mark.parametrize("length", [10, 3, 1])
def test_an_attack_at_another_length_is_pgd_on_a_model_whose_centres_have_it(length):
    """The head is -||f - mu||^2 / 2 of centres of that length: the same softmax as their inner products'."""
    model, x, y = linear_problem(0.3)
    other = model.with_head(ClusterHead(model.head.centroids * (length / 10), torch.arange(3), 1.0))
    found, expected = (
        named(attacked, name).run(attacked, x, y, seed=3)
        for attacked, name in ((model, f"pgd_50_length_{length}"), (other, "pgd_50"))
    )
    torch.testing.assert_close(found.x_adv, expected.x_adv, atol=1e-6, rtol=0)
    assert torch.equal(model(found.x_adv).argmax(1), other(expected.x_adv).argmax(1))


def test_the_attack_on_cosines_climbs_their_cross_entropy():
    """A twin by hand, with torch's own cosine."""
    model, x, y = linear_problem(0.3)
    attack = named(model, "pgd_50_cosine")
    found = attack.run(model, x, y, seed=7).x_adv
    points = start_in_ball(x, EPS, "Linf", image_keys(x, 7), 0)
    for _ in range(50):
        points = points.detach().requires_grad_(True)
        cosines = F.cosine_similarity(model.features(points)[:, None], model.head.centroids[None], dim=2)
        (slope,) = torch.autograd.grad(F.cross_entropy(cosines, y, reduction="sum"), points)
        points = (points + EPS / 4 * slope.sign()).detach()
        points = torch.maximum(torch.minimum(points, x + EPS), x - EPS).clamp(0, 1)
    torch.testing.assert_close(found, points, atol=1e-5, rtol=0)


def test_what_pgd_leaves_of_long_features_depends_on_the_logits_that_it_is_given():
    """One model, one decision: inner products saturate the later the shorter the centres are, cosines never do."""
    model, x, y = linear_problem(100.0)
    exact = really_robust(model, x, y)
    logits = [CentreLogits(model.head, length)(model.features(x)) for length in (None, 1.0, 3.0, 10.0)]
    assert all(torch.equal(one.argmax(1), y) for one in logits)
    left = {
        name: float(kept(model, x, y, name).float().mean())
        for name in ("pgd_50_cosine", "pgd_50_length_1", "pgd_50_length_3", "pgd_50_length_10", "pgd_50")
    }
    sound = float(exact.float().mean())
    assert sound <= left["pgd_50_cosine"] < sound + 0.1
    assert left["pgd_50_cosine"] < left["pgd_50_length_1"] < left["pgd_50_length_3"] < left["pgd_50_length_10"]
    assert left["pgd_50_length_10"] == left["pgd_50"]
    assert left["pgd_50_cosine"] == float(kept(linear_problem(1.0)[0], x, y, "pgd_50_cosine").float().mean())


def test_cosines_and_inner_products_are_those_of_their_definitions():
    centres = 7 * max_mahalanobis_centres(4, 5, length=1.0)
    order = torch.tensor([2, 0, 3, 1])
    head = ClusterHead(centres, order, 0.3, temperature=2.0)
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    cosines, products = CentreLogits(head)(features), CentreLogits(head, 3.0)(features)
    for row in range(30):
        for place, label in enumerate(order.tolist()):
            product = float(features[row] @ centres[place]) / 7
            assert float(products[row, label]) == pytest.approx(3 * product, rel=1e-4, abs=1e-5)
            assert float(cosines[row, label]) == pytest.approx(product / float(features[row].norm()), abs=1e-6)
    assert torch.equal(CentreLogits(head)(torch.zeros(2, 5)), torch.zeros(2, 4))
    for length in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="a length above 0"):
            CentreLogits(head, length)


def test_logits_of_equal_centres_are_attacked_only_where_there_are_such():
    centres = max_mahalanobis_centres(3, 5, length=2.0)
    unequal, several, linear = (
        ClusterHead(centres * torch.tensor([[1.0], [1.01], [1.0]]), torch.arange(3), 1.0),
        ClusterHead(max_mahalanobis_centres(4, 5), torch.tensor([0, 0, 1, 2]), 1.0),
        LinearHead(5, 3),
    )
    for head, there in (
        (ClusterHead(centres, torch.arange(3), 1.0), True),
        (unequal, False),
        (several, False),
        (linear, False),
    ):
        model = Classifier(MLP(6, (8,), 5), head, [0.5], [1.0])
        assert any("length" in attack.name for attack in attacks_on(model)) is there
        assert any("cosine" in attack.name for attack in attacks_on(model)) is there
    for head in (unequal, several):
        with pytest.raises(ValueError, match="one centroid a class, all of equal length"):
            CentreLogits(head)


def test_the_attack_on_training_has_the_weights_of_training():
    model, x, y = linear_problem(1.0)
    one = MatObjective(3.0, 0.5).bind(model, x, y)
    training = TrainingLoss("mat", MatObjective(3.0, 0.5), (("bibo_weight", 0.5), ("so_weight", 3.0)))
    attack = named(model, "pgd_50_training", training=training)
    assert dict(attack.settings)["so_weight"] == 3.0
    found = attack.run(model, x, y, seed=0).x_adv
    rows = torch.arange(len(x))
    assert float(one(found, rows)[0].mean().detach()) > float(one(x, rows)[0].mean().detach())


def test_labels_outside_the_classes_are_refused():
    model, x, _ = linear_problem(1.0)
    for attack in attacks_on(model):
        if attack.name.endswith("targeted"):
            with pytest.raises(ValueError, match="label 3 is outside the model's 3 classes"):
                attack.run(model, x, torch.full((len(x),), 3), seed=0)
