"""FAB against exact distances of linear models, the public implementation, and the promises of its docstring."""

from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from sklearn.datasets import load_digits
from tests.oracles import DUAL, linear_distances
from torch import nn

from corral.attacks import pgd
from corral.attacks.fab.attack import fab, fab_minimal
from corral.attacks.fab.steps import ALPHA_MAX, ETA, Linearised, distances, move
from corral.errors import CorralError

NORMS = ("Linf", "L2", "L1")
# Radii about as far as half of the linear problem's images are from their boundaries.
MEDIAN = {"Linf": 0.02, "L2": 0.05, "L1": 0.08}


def linear_model(classes, pixels=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, pixels, generator=generator))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)  # all classes tie at the grey image
    return model


def grey_problem(classes, n=40, seed=0):
    """Images near 0.5, where the way to the boundary never meets the box; labels are the model's predictions."""
    model = linear_model(classes, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    x = 0.5 + 0.1 * (2 * torch.rand(n, 1, 2, 3, generator=generator, dtype=torch.float64) - 1)
    return model, x, model(x).argmax(1)


def rival_planes(model, x, y):
    """(N, C - 1, d) gradients and (N, C - 1) values of every rival's logit minus the label's."""
    weight, logits = model[1].weight.detach(), model(x).detach()
    rivals = torch.tensor([[c for c in range(len(weight)) if c != label] for label in y.tolist()])
    return weight[rivals] - weight[y].unsqueeze(1), logits.gather(1, rivals) - logits.gather(1, y.unsqueeze(1))


def boxed_distance(model, image, label, norm):
    """The exact distance within the box, by linear programming or SLSQP over every rival; infinite where there is none.

    For two or more classes the nearest rival's halfspace is the whole boundary.
    """
    normals, values = rival_planes(model, image.unsqueeze(0), label.unsqueeze(0))
    point = image.flatten().numpy()
    d, best = len(point), float("inf")
    for normal, value in zip(normals[0].numpy(), values[0].tolist(), strict=True):
        box = list(zip(-point, 1 - point, strict=True))
        if norm == "Linf":
            above = np.r_[np.c_[np.eye(d), -np.ones(d)], np.c_[-np.eye(d), -np.ones(d)], [np.r_[-normal, 0]]]
            answer = linprog(
                np.r_[np.zeros(d), 1], A_ub=above, b_ub=np.r_[np.zeros(2 * d), value], bounds=[*box, (0, None)]
            )
        elif norm == "L1":
            up_down = [*zip(np.zeros(d), 1 - point, strict=True), *zip(np.zeros(d), point, strict=True)]
            answer = linprog(np.ones(2 * d), A_ub=[np.r_[-normal, normal]], b_ub=[value], bounds=up_down)
        else:
            corner = np.where(normal > 0, 1 - point, -point)
            if normal @ corner + value < 0:
                continue
            answer = minimize(
                lambda m: m @ m,
                corner,
                jac=lambda m: 2 * m,
                bounds=box,
                constraints={"type": "ineq", "fun": lambda m, w=normal, v=value: w @ m + v},
                method="SLSQP",
                options={"ftol": 1e-13, "maxiter": 500},
            )
        if answer.status == 0:
            best = min(best, answer.fun**0.5 if norm == "L2" else answer.fun)
    return best


@cache
def digits_problem(norm):
    """An adversarially trained MLP on the digits, and 200 images that it has not seen."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    eps = {"Linf": 0.1, "L2": 0.4}[norm]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 10)
        )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(8):
        for start in range(0, 1500, 100):
            x, y = images[start : start + 100], labels[start : start + 100]
            generator = torch.Generator().manual_seed(1000 * epoch + start)
            x = pgd(model, x, y, eps=eps, norm=norm, steps=3, step_size=eps / 2, generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval(), images[1500:1700], labels[1500:1700]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targets", [0, 3])
def test_minimal_distances_of_a_linear_model_are_exact(norm, targets):
    model, x, y = grey_problem(4)
    exact = linear_distances(model[1].weight, model(x), y, norm)
    outcome = fab_minimal.outcome(model, x, y, norm=norm, steps=20, targets=targets)
    found = distances(outcome.x_adv, x, norm)
    assert bool(outcome.broken.all())
    assert bool((model(outcome.x_adv).argmax(1) != y).all())
    assert bool((found >= exact * (1 - 1e-9)).all())
    assert bool((found <= exact * 1.01).all())


@pytest.mark.parametrize("norm", NORMS)
def test_minimal_distances_are_exact_where_the_box_binds(norm):
    model = linear_model(3, seed=7)
    # A head start for class 0: the way to the others leads toward walls as often as away from them.
    model[1].bias.data[0] += 2
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(16, 1, 2, 3, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(x.shape, generator=generator) < 0.6, x.round(), x)
    y = model(x).argmax(1)
    exact = torch.tensor([boxed_distance(model, a, b, norm) for a, b in zip(x, y, strict=True)])
    # The box decides for many: without it the boundary would be nearer.
    assert int((exact > 1.05 * linear_distances(model[1].weight, model(x), y, norm)).sum()) >= 6
    outcome = fab_minimal.outcome(model, x, y, norm=norm, steps=60, targets=2)
    found = distances(outcome.x_adv, x, norm)
    assert bool(outcome.broken.all())
    assert bool((found >= exact * (1 - 1e-6)).all())
    assert bool((found <= exact * 1.01).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("classes", "targets"), [(2, 9), (4, 0), (4, 9)])
def test_images_of_a_linear_model_fall_exactly_where_the_distance_is_below_eps(norm, classes, targets):
    model, x, y = grey_problem(classes, n=60)
    exact = linear_distances(model[1].weight, model(x), y, norm)
    eps = float(exact.median())
    outcome = fab.outcome(model, x, y, eps=eps, norm=norm, steps=15, targets=targets)
    assert bool(outcome.broken[exact < eps * 0.99].all())
    assert not bool(outcome.broken[exact > eps].any())


class Sphere(nn.Module):
    """Misclassified beyond `radius` of the grey image; the margin is a power of the distance to it."""

    def __init__(self, radius, power):
        super().__init__()
        self.radius, self.power = radius, power

    def forward(self, x):
        away = (x - 0.5).flatten(1).square().sum(1).sqrt()
        rival = away**self.power - self.radius**self.power
        return torch.stack([torch.zeros_like(rival), rival], 1)


@pytest.mark.parametrize(("power", "slack"), [(0.25, 0.01), (1.0, 0.01), (3.0, 0.025)])
def test_a_curved_boundary_is_found_at_its_exact_distance(power, slack):
    # A linearisation falls short of the sphere at powers below 1; above, it leads past it into the box's walls.
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(20, 12, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    depths = torch.linspace(0.02, 0.25, 20, dtype=torch.float64)
    x, y = 0.5 + (0.3 - depths).unsqueeze(1) * directions, torch.zeros(20, dtype=torch.int64)
    model = Sphere(0.3, power)
    found = distances(fab_minimal(model, x, y, norm="L2", steps=40, targets=1), x, "L2")
    assert bool((found >= depths * (1 - 1e-9)).all())
    assert bool((found <= depths * (1 + slack)).all())
    fell = fab.outcome(model, x, y, eps=0.1, norm="L2", steps=40, targets=1).broken
    assert torch.equal(fell, depths < 0.1)


class Counting(nn.Module):
    """A model that remembers how many images it was shown, and how many at once."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.model(x)


def test_a_survivor_costs_a_linearisation_and_a_look_a_step_and_the_fallen_nothing():
    model, x, y = grey_problem(4, n=60)
    far = linear_distances(model[1].weight, model(x), y, "L2")
    order = far.argsort()
    x, y, far = x[order], y[order], far[order]
    eps = float(far[30] + far[29]) / 2  # the first half falls
    counting = Counting(model)
    outcome = fab.outcome(counting, x, y, eps=eps, norm="L2", steps=50, targets=3)
    assert outcome.forwards == sum(counting.sizes)
    assert outcome.broken.tolist() == [True] * 30 + [False] * 30
    # Passes at the clean images, then for each target: 50 linearisations and a look at where each leads.
    survivors = 30 * (1 + 3 * (50 + 50))
    fallen = outcome.forwards - survivors
    assert 0 < fallen < 30 * 3 * 12
    # A look needs no gradient.
    assert 30 * 3 * 50 < outcome.backwards < 30 * 3 * (50 + 12)
    assert max(counting.sizes[-20:]) == 30
    # Nothing to do for images that are misclassified as they are.
    counting.sizes.clear()
    wrong = fab.outcome(counting, x, (y + 1) % 4, eps=eps, norm="L2")
    assert counting.sizes == [60]
    assert wrong.backwards == 0
    assert wrong.step.tolist() == [0] * 60
    assert bool((wrong.x_adv == x).all())
    assert bool(wrong.broken.all())


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.12), ("L2", 0.6)])
def test_robust_accuracy_is_at_most_that_of_the_public_targeted_fab(norm, eps):
    model, x, y = digits_problem(norm)
    ours = fab.outcome(model, x, y, eps=eps, norm=norm, steps=20, targets=9)
    code = pytest.importorskip("pyautoattack.fab_pt")
    public = code.FABAttack_PT(model, norm=norm, eps=eps, n_iter=20, n_restarts=1, targeted=True, device="cpu")
    theirs = model(public.perturb(x, y)).argmax(1) != y
    robust = float((~ours.broken).double().mean())
    assert 0.15 < robust < 0.85
    assert robust <= float((~theirs).double().mean()) + 0.002


def test_minimal_distances_are_at_most_those_of_the_public_targeted_fab():
    model, x, y = digits_problem("L2")
    x, y = x[:60], y[:60]
    ours = distances(fab_minimal(model, x, y, norm="L2", steps=30, targets=1), x, "L2")
    code = pytest.importorskip("pyautoattack.fab_pt")
    public = code.FABAttack_PT(model, norm="L2", eps=0.6, n_iter=30, n_restarts=1, targeted=True, device="cpu")
    public.target_class = 2
    theirs = distances(public.attack_single_run(x, y, is_targeted=True), x, "L2")
    right = model(x).argmax(1) == y
    assert bool((ours[right] > 0).all())
    assert float(ours[right].mean()) <= 1.001 * float(theirs[right].mean())
    assert int((ours[right] <= 1.01 * theirs[right]).sum()) >= 0.95 * int(right.sum())


@settings(max_examples=12, deadline=None)
@given(
    norm=st.sampled_from(NORMS),
    eps=st.floats(0.01, 0.6),
    targets=st.sampled_from([0, 1, 4]),
    restarts=st.sampled_from([1, 2]),
    seed=st.integers(-5, 5),
)
def test_results_are_in_ball_and_box_and_truly_misclassified(norm, eps, targets, restarts, seed):
    model, x, y = digits_problem("Linf")
    x, y = x[:12], y[:12]
    arguments = {"eps": eps, "norm": norm, "targets": targets, "restarts": restarts, "steps": 6, "seed": seed}
    before = x.clone()
    outcome = fab.outcome(model, x, y, **arguments)
    assert torch.equal(x, before)
    assert bool((distances(outcome.x_adv, x, norm) <= eps * (1 + 1e-6)).all())
    assert float(outcome.x_adv.min()) >= 0
    assert float(outcome.x_adv.max()) <= 1
    # "Broken" is true of the returned pixels; what stands is returned as it was, so nothing is worse than its start.
    assert torch.equal(outcome.broken, model(outcome.x_adv).argmax(1) != y)
    assert torch.equal(outcome.broken, outcome.step >= 0)
    assert torch.equal(outcome.x_adv[~outcome.broken], x[~outcome.broken])
    assert torch.equal(fab(model, x, y, **arguments), outcome.x_adv)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targets", [0, 3])
def test_results_do_not_depend_on_batch_size_or_order(norm, targets):
    model, x, y = grey_problem(4, n=24, seed=2)
    arguments = {"eps": MEDIAN[norm], "norm": norm, "steps": 8, "restarts": 3, "targets": targets}
    whole = fab.outcome(model, x, y, **arguments)
    assert 3 < int(whole.broken.sum()) < 24
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    for rows in (*torch.arange(24).split(3), order):
        part = fab.outcome(model, x[rows], y[rows], **arguments)
        assert torch.equal(part.broken, whole.broken[rows])
        assert torch.equal(part.step, whole.step[rows])
        torch.testing.assert_close(part.x_adv, whole.x_adv[rows], rtol=0, atol=1e-6)


class Plateau(nn.Module):
    """Two classes; flat within `radius` of the grey image in the first pixel, beyond it the rival's logit rises."""

    def __init__(self, radius):
        super().__init__()
        self.radius = radius

    def forward(self, x):
        away = (x.flatten(1)[:, 0] - 0.5).abs()
        rival = 100 * (away - self.radius).clamp_min(0) - 1
        return torch.stack([torch.zeros_like(rival), rival], 1)


def test_the_seed_decides_the_random_starts_and_nothing_else():
    model, y = Plateau(0.02), torch.zeros(10, dtype=torch.int64)
    x = torch.full((10, 1, 2, 2), 0.5) + torch.arange(10).view(-1, 1, 1, 1) / 1e4
    arguments = {"eps": 0.2, "norm": "L2", "restarts": 2, "targets": 1}
    first = fab.outcome(model, x, y, seed=1, **arguments)
    assert int(first.broken.sum()) > 3
    state = torch.random.get_rng_state()
    assert torch.equal(fab(model, x, y, seed=1, **arguments), first.x_adv)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(fab(model, x, y, seed=2, **arguments), first.x_adv)


def test_without_any_gradient_a_run_ends_at_once_and_a_restart_may_still_succeed():
    x, y = torch.full((20, 1, 2, 2), 0.5), torch.zeros(20, dtype=torch.int64)
    model = Plateau(0.05)
    one = fab.outcome(model, x, y, eps=0.2, norm="Linf", targets=1)
    assert one.step.tolist() == [-1] * 20
    assert (one.forwards, one.backwards) == (40, 20)
    assert torch.equal(one.x_adv, x)
    many = fab.outcome(model, x, y, eps=0.2, norm="Linf", targets=1, restarts=6)
    assert bool(many.broken.all())
    # Counted over all restarts: the second's first linearisation is the 101st.
    assert int(many.step.min()) > 100
    nothing = fab_minimal.outcome(model, x, y, norm="Linf", targets=0)
    assert not bool(nothing.broken.any())
    assert torch.equal(nothing.x_adv, x)


def test_the_nearest_rival_is_that_of_the_nearest_linearised_boundary():
    model, x, y = grey_problem(5, seed=4)
    normals, values = rival_planes(model, x, y)
    for norm in NORMS:
        with torch.no_grad():
            logits, value, normal = Linearised(model).linearise(x, y, None, norm)
        nearest = (-values / torch.linalg.vector_norm(normals, DUAL[norm], dim=2)).argmin(1, keepdim=True)
        torch.testing.assert_close(logits, model(x).detach())
        torch.testing.assert_close(value, values.gather(1, nearest).squeeze(1))
        torch.testing.assert_close(normal.flatten(1), normals[torch.arange(len(x)), nearest.squeeze(1)])


@pytest.mark.parametrize("norm", NORMS)
def test_a_move_mixes_the_overshot_projections_of_point_and_image(norm):
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.02 * torch.randn(10, 3, 4, 4, generator=generator, dtype=torch.float64)
    normals = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    lengths = torch.linalg.vector_norm(normals.flatten(1), dim=1)
    # From the image itself: past the plane by 5% of the distance.
    values = -0.01 * lengths
    moved = move(x, x, values, normals, norm)
    reached = values + (normals * (moved - x)).flatten(1).sum(1)
    torch.testing.assert_close(reached, values * (1 - ETA))
    # From a point as far from the plane as the image: alpha is at its cap, so 10% of the way comes from the image.
    points = x + 0.03 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    offset = (normals * (points - x)).flatten(1).sum(1)
    both = move(points, x, values + offset, normals, norm)
    mixed = (1 - ALPHA_MAX) * (values + offset) + ALPHA_MAX * values
    height = values + (normals * (both - x)).flatten(1).sum(1)
    expected = (1 - ETA) * mixed
    far = values.abs() < 9 * (values + offset).abs()  # where a1 / (a1 + a2) exceeds the cap
    assert int(far.sum()) > 4
    torch.testing.assert_close(height[far], expected[far])


def test_the_model_gets_its_state_back():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 3)).train()
    model[2].eval()
    model[3].bias.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    x = torch.rand(8, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8) % 3
    fab(model, x, y, eps=0.1, steps=3, targets=2)
    assert [module.training for module in model] == [True, True, False, True]
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, True, True, False]
    assert bool((model[3].weight.grad == 1).all())
    assert model[2].weight.grad is None
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert x.grad is None


def test_an_empty_batch_and_no_radius_need_no_search():
    model, x, y = grey_problem(3)
    empty = fab.outcome(model, x[:0], y[:0], eps=0.1)
    assert empty.x_adv.shape == (0, 1, 2, 3)
    assert empty.forwards == 0
    still = fab.outcome(model, x, y, eps=0.0, targets=9)
    assert not bool(still.broken.any())
    assert still.forwards == len(x)


def test_impossible_arguments_are_refused_in_one_line():
    model, x, y = grey_problem(3)
    for wrong, words in (
        ({"steps": 0}, r"^steps must be >= 1, found 0$"),
        ({"restarts": 0}, r"^restarts must be >= 1, found 0$"),
        ({"targets": -1}, r"^targets must be >= 0, found -1$"),
    ):
        with pytest.raises(ValueError, match=words):
            fab(model, x, y, eps=0.1, **wrong)
        with pytest.raises(ValueError, match=words):
            fab_minimal(model, x, y, **wrong)
    with pytest.raises(ValueError, match="is not one of Linf, L2, L1"):
        fab(model, x, y, eps=0.1, norm="L3")
    with pytest.raises(ValueError, match="eps must be a number >= 0"):
        fab(model, x, y, eps=-0.1)
    with pytest.raises(ValueError, match="outside the model's 3 classes"):
        fab(model, x, y + 1, eps=0.1)


class Broken(nn.Module):
    def forward(self, x):
        value = x.flatten(1).sum(1)
        return torch.stack([value, (value - 1e9).sqrt()], 1)


class RootAtZero(nn.Module):
    """Finite logits whose gradient at black images is infinite."""

    def forward(self, x):
        value = x.flatten(1).sum(1).sqrt()
        return torch.stack([1 + 0 * value, value], 1)


@pytest.mark.parametrize("targets", [0, 1])
def test_logits_or_gradients_that_are_not_finite_end_the_attack(targets):
    x, y = torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(CorralError, match="logits are not finite for 4 of 4 images"):
        fab(Broken(), x, y, eps=0.1, targets=targets)
    with pytest.raises(CorralError, match="gradients are not finite"):
        fab(RootAtZero(), x, y, eps=0.1, targets=targets)
