"""Auto-PGD against exact answers of linear models, a slow twin, the public implementation, and its own contract."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from tests.oracles import linear_distances
from torch import nn

from corral.attacks.apgd.attack import ATTEMPT, apgd
from corral.attacks.apgd.steps import random_start
from corral.attacks.noise import image_keys
from corral.attacks.objectives import targeted_dlr
from corral.models import MLP, Classifier, LinearHead


class Linear(nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias


def linear(classes=3, pixels=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, pixels, generator=draw)
    # Boundaries pass through the grey image, so that small balls around it decide.
    return Linear(weight, -weight.sum(1) / 2)


def network(seed=0, classes=5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(MLP(16, (32,), 16), LinearHead(16, classes), [0.5], [0.25])


def images(n=40, shape=(1, 3, 4), spread=0.2, seed=0):
    return 0.5 + spread * (torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) - 0.5)


def predicted(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


def length(delta, norm):
    flat = delta.double().flatten(1)
    return flat.abs().amax(1) if norm == "Linf" else flat.norm(dim=1) if norm == "L2" else flat.abs().sum(1)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize(("targets", "classes"), [(0, 2), (2, 3)])
def test_a_linear_model_falls_exactly_where_it_can(norm, targets, classes):
    # Untargeted with two classes: with more, the margin's maximum over rivals has several local maxima.
    model, x = linear(classes), images(200)
    y = predicted(model, x)
    distances = linear_distances(model.weight, model(x), y, norm)
    eps = float(distances.median())
    found = apgd.outcome(model, x, y, eps=eps, norm=norm, targets=targets, objective="margin")
    reachable = distances < eps
    assert not bool((found.broken & (distances > eps * (1 + 1e-5))).any())
    assert not bool((~found.broken & (distances < eps * (1 - 1e-4))).any())
    assert 80 < int(reachable.sum()) < 120


def test_where_the_box_binds_the_answer_is_the_linear_programs():
    model, eps = linear(classes=2, seed=3), 0.4
    x = torch.rand(60, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    y = predicted(model, x)
    found = apgd.outcome(model, x, y, eps=eps, norm="Linf", objective="margin").broken
    for i in range(len(x)):
        pixels, sign = x[i].flatten().double().numpy(), 1 if int(y[i]) == 0 else -1
        difference = sign * (model.weight[1] - model.weight[0]).detach().double().numpy()
        bounds = [(max(0, p - eps), min(1, p + eps)) for p in pixels]
        best = -linprog(-difference, bounds=bounds).fun + sign * float((model.bias[1] - model.bias[0]).detach())
        assert bool(found[i]) == (best > 0) or abs(best) < 1e-4


@given(
    eps=st.floats(0, 0.6),
    norm=st.sampled_from(["Linf", "L2", "L1"]),
    steps=st.integers(1, 12),
    restarts=st.integers(1, 3),
    targets=st.sampled_from([0, 1, 4]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_results_keep_the_ball_the_box_the_seed_and_the_models_state(eps, norm, steps, restarts, targets, seed):
    model = network(seed % 7).train()
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    y = torch.randint(5, (6,), generator=torch.Generator().manual_seed(seed + 1))
    y[:3] = predicted(network(seed % 7).eval(), x[:3])
    arguments = {"eps": eps, "norm": norm, "steps": steps, "restarts": restarts, "targets": targets, "seed": seed}
    found = apgd.outcome(model, x, y, **arguments)
    assert bool((length(found.x_adv - x, norm) <= eps * (1 + 2e-6) + 1e-6).all())
    assert float(found.x_adv.min()) >= 0
    assert float(found.x_adv.max()) <= 1
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    model.eval()
    assert torch.equal(predicted(model, found.x_adv) != y, found.broken)
    assert torch.equal(found.step == -1, ~found.broken)
    assert torch.equal(found.step == 0, predicted(model, x) != y)
    assert torch.equal(found.x_adv[found.step == 0], x[found.step == 0])
    assert torch.equal(apgd(model, x, y, **arguments), found.x_adv)
    if not targets and norm != "L1":
        # Never worse than its start: of what stands, the point of highest cross-entropy met.
        first = random_start(x, eps, norm, image_keys(x, seed), torch.zeros(6, dtype=torch.long))
        with torch.no_grad():
            before = F.cross_entropy(model(first), y, reduction="none")
            after = F.cross_entropy(model(found.x_adv), y, reduction="none")
        assert bool((after >= before - 1e-5)[~found.broken].all())


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("targets", [0, 3])
def test_neither_the_batch_nor_its_order_matters(norm, targets):
    model, x = network().eval(), torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    y = predicted(model, x)
    arguments = {"eps": {"Linf": 0.05, "L2": 0.2, "L1": 0.6}[norm], "norm": norm, "steps": 20, "restarts": 2}
    whole = apgd.outcome(model, x, y, targets=targets, **arguments)
    assert 0 < int(whole.broken.sum()) < 20
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    shuffled = apgd.outcome(model, x[order], y[order], targets=targets, **arguments)
    parts = [apgd.outcome(model, x[i : i + 3], y[i : i + 3], targets=targets, **arguments) for i in range(0, 20, 3)]
    assert torch.equal(shuffled.broken, whole.broken[order])
    assert torch.equal(shuffled.step, whole.step[order])
    assert torch.equal(torch.cat([part.step for part in parts]), whole.step)
    fell = whole.broken
    assert torch.allclose(shuffled.x_adv[fell[order]], whole.x_adv[order][fell[order]], atol=1e-5)
    assert torch.allclose(torch.cat([part.x_adv for part in parts])[fell], whole.x_adv[fell], atol=1e-5)


def reference_apgd(model, x, y, eps, steps, start):
    """Algorithm 1 for Linf and one image, as it is written: every iterate, in order, with its cross-entropy."""

    def value_of(point):
        point = point.clone().requires_grad_(True)
        loss = F.cross_entropy(model(point), y)
        return float(loss.detach()), torch.autograd.grad(loss, point)[0]

    def projected(point):
        return torch.minimum(torch.maximum(point, x - eps), x + eps).clamp(0, 1)

    size, before, point = 2 * eps, start, start
    value, gradient = value_of(point)
    values, points, gradients = [value], [point], [gradient]
    checkpoints, period = [], max(int(0.22 * steps), 1)
    while sum(checkpoints) + period <= steps:
        checkpoints.append(period)
        period = max(period - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    ends = [sum(checkpoints[: i + 1]) for i in range(len(checkpoints))]
    last_end, halved_before, best_before = 0, True, -math.inf
    for k in range(steps):
        if k in ends:
            rises = sum(values[j + 1] > values[j] for j in range(last_end, k))
            best = max(values)
            halve = rises <= 0.75 * (k - last_end) or (not halved_before and best_before >= best)
            halved_before, best_before, last_end = halve, best, k
            if halve:
                size /= 2
                place = values.index(best)
                point, gradient = points[place], gradients[place]
        goal = projected(point + size * gradient.sign())
        if k:
            goal = projected(point + 0.75 * (goal - point) + 0.25 * (point - before))
        before, point = point, goal
        value, gradient = value_of(point)
        values.append(value)
        points.append(point)
        gradients.append(gradient)
    return points[values.index(max(values))], max(values)


def test_it_is_the_slow_twin_of_algorithm_1():
    model, steps, eps = network(2).eval().double(), 50, 0.03
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    y = predicted(network(2).eval(), x)
    starts = random_start(x, eps, "Linf", image_keys(x, 0), torch.zeros(8, dtype=torch.long) * ATTEMPT)
    found = apgd.outcome(model, x.double(), y, eps=eps, steps=steps)
    stands = (~found.broken).nonzero().squeeze(1).tolist()
    assert len(stands) >= 4
    for i in stands:
        point, value = reference_apgd(
            model, x[i : i + 1].double(), y[i : i + 1], eps, steps, starts[i : i + 1].double()
        )
        ours = float(F.cross_entropy(model(found.x_adv[i : i + 1]), y[i : i + 1]).detach())
        # The random start is drawn in float32: equal walks agree to its rounding.
        assert ours == pytest.approx(value, rel=1e-4)
        assert torch.allclose(found.x_adv[i : i + 1], point, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.08), ("L2", 0.4), ("L1", 1.5)])
@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-dlr", "apgd-t"])
def test_it_leaves_no_more_than_the_public_implementation(digits_network, norm, eps, attack):
    model, x, y = digits_network
    chosen = {"apgd-ce": {}, "apgd-dlr": {"objective": "dlr"}, "apgd-t": {"targets": 9}}[attack]
    ours = int((~apgd.outcome(model, x, y, eps=eps, norm=norm, **chosen).broken).sum())
    code = pytest.importorskip("pyautoattack")
    public = code.AutoAttack(model, norm=norm, eps=eps, version="custom", attacks=[attack], seed=0)
    for each in (public.apgd, public.apgd_targeted):
        each.n_restarts, each.use_largereps = 1, norm == "L1"
    public.verbose = False
    left = public.run_standard_evaluation(x, y, batch_size=300)[0]
    theirs = int((predicted(model, left) == y).sum())
    assert 30 < theirs < 270
    # 0.2 points are less than one of 300 images.
    assert ours <= theirs


def test_averaged_passes_cancel_what_cancels():
    class Swinging(nn.Module):
        """Logits (1 + 3) and (1 - 3) times those of the model in turn: every second gradient points back."""

        def __init__(self, inner):
            super().__init__()
            self.inner, self.passes = inner, 0

        def forward(self, x):
            self.passes += 1
            return self.inner(x) * (4.0 if self.passes % 2 else -2.0)

    model, x = linear(classes=2, seed=1), images(60)
    y = predicted(model, x)
    eps = float(linear_distances(model.weight, model(x), y, "Linf").median())
    plain = apgd.outcome(model, x, y, eps=eps, steps=20, objective="margin")
    assert 20 < int(plain.broken.sum()) < 40
    found = apgd.outcome(Swinging(model), x, y, eps=eps, steps=20, objective="margin", eot=2)
    assert torch.equal(found.broken, plain.broken)
    assert torch.allclose(found.x_adv, plain.x_adv, atol=1e-6)
    assert (found.forwards, found.backwards) == (2 * plain.forwards, 2 * plain.backwards)


def test_the_targeted_ratio_is_equation_7():
    logits = torch.tensor([[4.0, 1.0, 3.0, 2.0, 0.0], [1.0, 5.0, 2.0, 2.5, 0.5]])
    found = targeted_dlr(logits, torch.tensor([0, 1]), torch.tensor([3, 2]))
    # -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), by hand.
    assert found.tolist() == pytest.approx([-2 / (4 - 1.5), -3 / (5 - 1.5)])
    few = targeted_dlr(logits[:, :3], torch.tensor([0, 1]), torch.tensor([2, 2]))
    assert few.tolist() == pytest.approx([-1.0, -3.0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "L3"}, "norm 'L3' is not one of Linf, L2, L1"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"steps": 0}, "^steps must be >= 1, found 0$"),
        ({"targets": -1}, "^targets must be >= 0, found -1$"),
        ({"eot": 0}, "^eot must be >= 1, found 0$"),
        ({"x": torch.full((2, 1, 3, 4), 1.5)}, "pixels must be in"),
        ({"x": torch.full((2, 1, 3, 4), float("nan"))}, "NaN"),
        ({"y": torch.tensor([0, 3])}, "label 3 is outside the model's 3 classes"),
    ],
)
def test_impossible_arguments_are_one_line(changes, words):
    arguments = {"x": images(2), "y": torch.tensor([0, 1]), "eps": 0.1} | changes
    x, y = arguments.pop("x"), arguments.pop("y")
    with pytest.raises(ValueError, match=words) as caught:
        apgd(linear(), x, y, **arguments)
    assert "\n" not in str(caught.value)


def test_no_images_give_no_images():
    assert apgd(linear(), torch.zeros(0, 1, 3, 4), torch.zeros(0, dtype=torch.long), eps=0.1).shape == (0, 1, 3, 4)
