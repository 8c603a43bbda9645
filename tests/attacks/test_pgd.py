"""PGD against the exact optimum of linear models, slow reference twins, and the promises of its docstring."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles import linear_distances
from torch import nn

from corral.attacks import pgd
from corral.attacks.balls import ascend, project, random_in_ball, start_in_ball
from corral.attacks.noise import image_keys
from corral.attacks.objectives import CLUSTER_OBJECTIVES, CONSISTENCY_OBJECTIVES, LOGIT_OBJECTIVES
from corral.models import MLP, Classifier, ClusterHead


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear_problem(classes, n=60, seed=0):
    """A linear model on six pixels near 0.5, where a small ball never meets the box; labels are its predictions."""
    generator = seeded(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, classes)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, 6, generator=generator))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)  # all classes tie at the grey image
    x = 0.5 + 0.15 * (2 * torch.rand(n, 1, 2, 3, generator=generator, dtype=torch.float64) - 1)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("objective", ["cross_entropy", "margin"])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.03), ("L2", 0.06)])
def test_binary_linear_model_flips_exactly_where_the_exact_distance_is_below_eps(norm, eps, objective):
    model, x, y = linear_problem(2)
    distances = linear_distances(model[1].weight, model(x), y, norm)
    # The margin falls from start to end as by a straight walk: steps of eps / 5 cross any ball.
    found = pgd(model, x, y, eps=eps, norm=norm, steps=20, step_size=eps / 5, objective=objective, generator=seeded())
    flipped = model(found).argmax(1) != y
    assert 10 < int((distances < eps).sum()) < 50
    assert bool(flipped[distances < eps - 1e-3].all())
    assert not bool(flipped[distances > eps].any())


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.02), ("L2", 0.045)])
def test_linear_model_of_four_classes_flips_exactly_where_the_exact_distance_is_below_eps(norm, eps):
    model, x, y = linear_problem(4, n=80, seed=1)
    distances = linear_distances(model[1].weight, model(x), y, norm)

    def towards(rival):
        return lambda logits, labels: logits[:, rival] - logits.gather(1, labels[:, None]).squeeze(1)

    found = x
    for rival in range(4):
        attacked = pgd(model, x, y, eps=eps, norm=norm, steps=20, step_size=eps / 5, objective=towards(rival))
        flipped = model(attacked).argmax(1) != y
        found = torch.where(flipped.view(-1, 1, 1, 1), attacked, found)
    flipped = model(found).argmax(1) != y
    assert 15 < int((distances < eps).sum()) < 70
    assert bool(flipped[distances < eps - 1e-3].all())
    assert not bool(flipped[distances > eps].any())
    # The usual objectives, with restarts, never flip more, and here few fewer.
    for objective in ("cross_entropy", "margin", "dlr"):
        usual = pgd(
            model,
            x,
            y,
            eps=eps,
            norm=norm,
            steps=20,
            step_size=eps / 5,
            restarts=4,
            objective=objective,
            generator=seeded(),
        )
        wrong = model(usual).argmax(1) != y
        assert not bool(wrong[distances > eps].any())
        assert int(wrong.sum()) >= 0.85 * int(flipped.sum())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_margin_gained_on_a_linear_model_is_eps_times_the_dual_norm(norm):
    model, x, y = linear_problem(2)
    eps = 0.02
    robust = linear_distances(model[1].weight, model(x), y, norm) > eps
    x, y = x[robust], y[robust]
    weight = model[1].weight.detach()
    gain = eps * torch.linalg.vector_norm(weight[0] - weight[1], 1 if norm == "Linf" else 2)
    margin = LOGIT_OBJECTIVES["margin"]
    for keep in ("best", "last", "max_loss_restart"):
        found = pgd(
            model,
            x,
            y,
            eps=eps,
            norm=norm,
            steps=60,
            step_size=eps / 5,
            objective="margin",
            keep=keep,
            generator=seeded(),
        )
        assert torch.allclose(margin(model(found), y) - margin(model(x), y), gain.expand(len(x)), rtol=1e-3)


class OnePixel(nn.Module):
    """Two logits from the single pixel: 0 and a given function of it, so that positive values are misclassified."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        value = self.function(x.flatten(1)[:, 0])
        return torch.stack([torch.zeros_like(value), value], 1)


ZERO = torch.zeros(1, dtype=torch.int64)


def test_an_iterate_misclassified_on_the_way_counts_though_the_last_is_not():
    # Misclassified between 0.55 and 0.65; the slope leads on to 0.8, past it.
    model = OnePixel(lambda pixel: torch.where((pixel > 0.55) & (pixel < 0.65), 1.0, -1.0) + 0.1 * pixel)
    x = torch.full((1, 1, 1, 1), 0.5)
    arguments = {"eps": 0.3, "steps": 3, "step_size": 0.1, "objective": "margin", "random_start": False}
    last = pgd(model, x, ZERO, keep="last", **arguments)
    assert float(last) == pytest.approx(0.8)
    assert model(last).argmax(1).tolist() == [0]
    best = pgd(model, x, ZERO, keep="best", **arguments)
    assert float(best) == pytest.approx(0.6)
    assert model(best).argmax(1).tolist() == [1]


def test_without_success_the_iterate_of_highest_objective_is_kept():
    # One peak at 0.57; steps of 0.1 from 0.5 jump over it: 0.6, 0.5, 0.6, and never do better than 0.6.
    model = OnePixel(lambda pixel: -1 - (pixel - 0.57).abs())
    x = torch.full((1, 1, 1, 1), 0.5)
    arguments = {"eps": 0.3, "step_size": 0.1, "objective": "margin", "random_start": False}
    for steps in (1, 2, 3, 4):
        assert float(pgd(model, x, ZERO, steps=steps, **arguments)) == pytest.approx(0.6)
        assert float(pgd(model, x, ZERO, steps=steps, keep="last", **arguments)) == pytest.approx(0.5 + steps % 2 / 10)


def test_a_start_that_no_iterate_improves_is_returned():
    model = OnePixel(lambda pixel: -1 - (pixel - 0.5).abs())
    x = torch.full((1, 1, 1, 1), 0.5)
    assert torch.equal(pgd(model, x, ZERO, eps=0.2, steps=5, step_size=0.1, generator=seeded()), x)


class TwoSides(nn.Module):
    """Three logits of one pixel: misclassified right of 0.6, never on the left, where the third logit rises."""

    def forward(self, x):
        offset = x.flatten(1)[:, 0] - 0.5
        return torch.stack([torch.zeros_like(offset), 10 * offset.clamp_min(0) - 1, (-offset).clamp_min(0) - 5], 1)


def steeper_on_the_left(logits, labels):
    return 100 * (logits[:, 2] + 5) + logits[:, 1] + 1


def test_a_success_of_any_restart_counts_but_not_for_the_published_way():
    model, x = TwoSides(), torch.full((1, 1, 1, 1), 0.5)
    arguments = {"eps": 0.3, "steps": 10, "step_size": 0.1, "restarts": 10, "objective": steeper_on_the_left}
    published = pgd(model, x, ZERO, keep="max_loss_restart", generator=seeded(), **arguments)
    assert float(published) == pytest.approx(0.2)
    assert model(published).argmax(1).tolist() == [0]
    best = pgd(model, x, ZERO, keep="best", generator=seeded(), **arguments)
    assert model(best).argmax(1).tolist() == [1]


def network(classes=3, seed=0):
    """A small cluster classifier with ReLUs, float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ClusterHead(torch.randn(classes + 2, 4), torch.arange(classes + 2) % classes, 0.5)
        return Classifier(MLP(12, (16,), 4, rectify=False), head, [0.5] * 3, [0.25] * 3)


def batch(n=16, seed=1, classes=3):
    generator = seeded(seed)
    x = torch.rand(n, 3, 2, 2, generator=generator)
    return x, torch.randint(classes, (n,), generator=generator)


def reference_ascent(model, x, start, y, eps, norm, steps, step_size):
    """PGD on the cross-entropy, written out; a list of all its iterates."""
    iterates = [start]
    for _ in range(steps):
        point = iterates[-1].clone().requires_grad_(True)
        F.cross_entropy(model(point), y, reduction="sum").backward()
        delta = point.detach() - x
        if norm == "Linf":
            delta = (delta + step_size * point.grad.sign()).clamp(-eps, eps)
        else:
            delta = delta + step_size * F.normalize(point.grad.flatten(1)).view_as(x)
            lengths = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            delta = delta * (eps / lengths).clamp(max=1)
        iterates.append((x + delta).clamp(0, 1))
    model.zero_grad()
    return iterates


TWIN = {"eps": 0.1, "steps": 7, "step_size": 0.03}


def keyed_starts(x, norm, restarts, generator):
    """The random starts that a generator's next number stands for: one a restart, each image's own."""
    keys = image_keys(x, int(torch.randint(2**62, (), generator=generator)))
    return [start_in_ball(x, 0.1, norm, keys, 2 * restart) for restart in range(restarts)]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("random_start", [False, True])
def test_last_is_the_reference_twins_last_iterate(norm, random_start):
    model, (x, y) = network().eval(), batch()
    start = random_in_ball(x, 0.1, norm, seeded(5)) if random_start else x
    expected = reference_ascent(model, x, start, y, norm=norm, **TWIN)[-1]
    found = pgd(model, x, y, norm=norm, keep="last", random_start=random_start, generator=seeded(5), **TWIN)
    assert torch.allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("keep", ["max_loss_restart", "last"])
def test_max_loss_restart_is_the_reference_twins(norm, keep):
    model, (x, y) = network().eval(), batch()
    generator, expected, highest = seeded(6), x.clone(), torch.full((len(x),), -torch.inf)
    if keep == "last":
        starts = [random_in_ball(x, 0.1, norm, generator) for _ in range(4)]
    else:
        starts = keyed_starts(x, norm, 4, generator)
    for start in starts:
        end = reference_ascent(model, x, start, y, norm=norm, **TWIN)[-1]
        losses = F.cross_entropy(model(end), y, reduction="none").detach()
        for i in range(len(x)):
            if losses[i] > highest[i]:
                expected[i], highest[i] = end[i], losses[i]
    found = pgd(model, x, y, norm=norm, keep=keep, restarts=4, generator=seeded(6), **TWIN)
    assert torch.allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_best_is_the_reference_twins_first_success_else_highest_loss(norm):
    model, (x, y) = network().eval(), batch(n=40)
    expected, points = x.clone(), [x]
    for start in keyed_starts(x, norm, 3, seeded(7)):
        points += reference_ascent(model, x, start, y, norm=norm, **TWIN)
    with torch.no_grad():
        logits = [model(point) for point in points]
    kinds = set()
    for i in range(len(x)):
        wrong = [t for t, z in enumerate(logits) if int(z[i].argmax()) != int(y[i])]
        losses = [float(F.cross_entropy(z[i], y[i])) for z in logits]
        place = wrong[0] if wrong else losses.index(max(losses))
        expected[i] = points[place][i]
        kinds.add("clean" if wrong and place == 0 else "fallen" if wrong else "standing")
    assert kinds == {"clean", "fallen", "standing"}
    found = pgd(model, x, y, norm=norm, restarts=3, generator=seeded(7), **TWIN)
    assert torch.allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("keep", ["best", "max_loss_restart"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_neither_the_batch_nor_its_order_matters(norm, keep):
    model, (x, y) = network().eval(), batch(n=20)
    order = torch.randperm(20, generator=seeded(1))
    arguments = {"norm": norm, "keep": keep, "restarts": 2, **TWIN}
    whole = pgd(model, x, y, generator=seeded(8), **arguments)
    shuffled = pgd(model, x[order], y[order], generator=seeded(8), **arguments)
    parts = [pgd(model, x[i : i + 3], y[i : i + 3], generator=seeded(8), **arguments) for i in range(0, 20, 3)]
    assert torch.allclose(shuffled, whole[order], atol=2e-6)
    assert torch.allclose(torch.cat(parts), whole, atol=2e-6)


def test_examples_already_misclassified_are_returned_unchanged():
    model, (x, y) = network().eval(), batch()
    wrong = model(x).argmax(1) != y
    assert 0 < int(wrong.sum()) < len(x)
    found = pgd(model, x, y, generator=seeded(), **TWIN)
    assert torch.equal(found[wrong], x[wrong])
    assert bool((found[~wrong] != x[~wrong]).flatten(1).any(1).all())
    assert found.data_ptr() != x.data_ptr()


NAMES = (*LOGIT_OBJECTIVES, *CONSISTENCY_OBJECTIVES, *CLUSTER_OBJECTIVES)


@given(
    eps=st.floats(0, 1),
    norm=st.sampled_from(["Linf", "L2"]),
    steps=st.integers(1, 4),
    restarts=st.integers(1, 3),
    objective=st.sampled_from(NAMES),
    keep=st.sampled_from(["best", "last", "max_loss_restart"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_results_are_in_the_ball_and_the_box_and_follow_the_seed(eps, norm, steps, restarts, objective, keep, seed):
    model, (x, y) = network(), batch(n=5, seed=seed)
    arguments = {
        "eps": eps,
        "norm": norm,
        "steps": steps,
        "step_size": max(eps / 2, 1e-3),
        "restarts": restarts,
        "objective": objective,
        "keep": keep,
    }
    before = x.clone()
    found = pgd(model, x, y, generator=seeded(seed), **arguments)
    delta = (found - x).flatten(1)
    lengths = delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert bool((lengths <= eps + 1e-6).all())
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert torch.equal(x, before)
    assert torch.equal(found, pgd(model, x, y, generator=seeded(seed), **arguments))


@given(objective=st.sampled_from(NAMES[:3]), norm=st.sampled_from(["Linf", "L2"]), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_result_is_misclassified_or_no_worse_than_the_clean_image(objective, norm, seed):
    model, (x, y) = network().eval(), batch(n=10, seed=seed)
    function = LOGIT_OBJECTIVES[objective]
    # A step far too large: most iterates are bad.
    found = pgd(model, x, y, eps=0.05, norm=norm, steps=3, step_size=0.1, objective=objective, generator=seeded(seed))
    with torch.no_grad():
        fallen = model(found).argmax(1) != y
        gain = function(model(found), y) - function(model(x), y)
    assert bool((fallen | (gain >= -1e-5)).all())
    assert bool(fallen[model(x).argmax(1) != y].all())


def test_more_restarts_of_one_generator_never_break_fewer():
    model, (x, y) = network().eval(), batch(n=60)
    robust = []
    for restarts in (1, 2, 4, 8):
        found = pgd(
            model, x, y, eps=0.08, steps=2, step_size=0.02, restarts=restarts, generator=seeded(3), objective="margin"
        )
        robust.append(model(found).argmax(1) == y)
    for fewer, more in pairwise(robust):
        assert not bool((more & ~fewer).any())
    assert int(robust[-1].sum()) < int(robust[0].sum())


class Counter(nn.Module):
    """Counts the images of each forward pass."""

    def __init__(self, model):
        super().__init__()
        self.model, self.images = model, []

    def forward(self, x):
        self.images.append(len(x))
        return self.model(x)


def test_work_stops_on_examples_as_they_fall():
    model, x, y = linear_problem(2)
    counter, steps, eps = Counter(model), 10, 0.03
    pgd(counter, x, y, eps=eps, steps=steps, step_size=eps / 5, restarts=3, generator=seeded())
    survivors = int((linear_distances(model[1].weight, model(x), y, "Linf") >= eps).sum())
    assert counter.images[:2] == [60, 60]  # the clean images, then every start: all labels are the predictions
    assert counter.images[1:] == sorted(counter.images[1:], reverse=True)
    assert counter.images[-1] == survivors
    # A linear model falls in its first restart or never: the others cost the survivors alone.
    assert counter.images[steps + 2 :] == [survivors] * (2 * (steps + 1))


def test_nothing_runs_once_all_have_fallen():
    model, x, y = linear_problem(2)
    counter = Counter(model)
    found = pgd(counter, x, 1 - y, eps=0.1, steps=10, step_size=0.02, restarts=3)
    assert counter.images == [60]
    assert torch.equal(found, x)


def test_training_costs_one_pass_a_step():
    model, (x, y) = network(), batch()
    counter = Counter(model)
    pgd(counter, x, y, keep="last", generator=seeded(), **TWIN)
    assert counter.images == [16] * 7


def test_a_plain_module_and_its_classifier_are_attacked_alike():
    model, (x, y) = network().eval(), batch()
    plain = nn.Sequential(model.normalisation, model.backbone, model.head)
    expected = pgd(model, x, y, generator=seeded(), **TWIN)
    assert torch.equal(pgd(plain, x, y, generator=seeded(), **TWIN), expected)


@pytest.mark.parametrize("keep", ["best", "last", "max_loss_restart"])
def test_the_callers_gradient_mode_and_graph_do_not_matter(keep):
    model, (x, y) = network(), batch()
    expected = pgd(model, x, y, keep=keep, generator=seeded(), **TWIN)
    with torch.no_grad():
        assert torch.equal(pgd(model, x, y, keep=keep, generator=seeded(), **TWIN), expected)
    found = pgd(model, x.clone().requires_grad_(True), y, keep=keep, generator=seeded(), **TWIN)
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_float64_images_stay_float64():
    model, (x, y) = network().double(), batch()
    found = pgd(model, x.double(), y, generator=seeded(), **TWIN)
    assert found.dtype == torch.float64


def test_one_step_is_the_ascent_and_the_projection_of_the_named_parts():
    model, (x, y) = network().eval(), batch()
    point = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)
    for norm in ("Linf", "L2"):
        expected = project(ascend(x, gradient, 0.9, norm), x, 0.1, norm)
        found = pgd(model, x, y, eps=0.1, norm=norm, steps=1, step_size=0.9, random_start=False, keep="last")
        assert torch.allclose(found, expected, atol=1e-6)
