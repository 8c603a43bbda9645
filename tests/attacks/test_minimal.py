"""Minimal-norm attacks and FGSM: a linear model's exact distances, a bisector's, and the promises of the docstrings."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from tests.oracles import linear_distances
from torch import nn

from corral.attacks.carlini_wagner import carlini_wagner
from corral.attacks.ddn import ddn
from corral.attacks.deepfool import deepfool
from corral.attacks.fgsm import fgsm
from corral.attacks.minimal import MinimalOutcome
from corral.models import Classifier, ClusterHead

OUTCOMES = {"ddn": ddn.outcome, "carlini_wagner": carlini_wagner.outcome, "deepfool": deepfool.outcome}
# The bounds on each image's distance on a linear model; DeepFool's single step is exact up to bisection.
WITHIN = {"ddn": 0.01, "carlini_wagner": 0.02, "deepfool": 0.002}
EVERY = pytest.mark.parametrize("name", OUTCOMES)


def quick(name, model, x, y):
    """An attack with few passes, for promises that hold at any number of them."""
    few = {"ddn": {"steps": 30}, "carlini_wagner": {"steps": 15, "searches": 3}, "deepfool": {}}
    return OUTCOMES[name](model, x, y, **few[name])


def linear_problem(classes, scale=1.0, n=24, seed=0, spread=0.1, dtype=torch.float32):
    """A linear model on 48 pixels near grey, where all classes tie; labels are its predictions."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, 48, generator=generator) * scale)
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    x = 0.5 + spread * (2 * torch.rand(n, 3, 4, 4, generator=generator) - 1)
    return model.to(dtype).eval(), x.to(dtype), model.to(dtype)(x.to(dtype)).argmax(1)


def mean_norm(found):
    """Mean distance of the images that the attack succeeded on, and how many those are; NaN and 0 if none."""
    distances = found.distances[found.broken & ~found.natural]
    return float(distances.mean()), len(distances)


@EVERY
@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (10, 0.1), (5, 30.0)])
def test_every_distance_on_a_linear_model_is_the_exact_one(name, classes, scale):
    model, x, y = linear_problem(classes, scale)
    found, exact = OUTCOMES[name](model, x, y), linear_distances(model[1].weight, model.double()(x.double()), y)
    assert bool(found.broken.all())
    assert not bool(found.natural.any())
    assert bool((found.distances <= exact * (1 + WITHIN[name])).all())
    assert bool((found.distances >= exact * (1 - 1e-4) - 1e-6).all())
    mean, count = mean_norm(found)
    assert count == len(x)
    assert mean == pytest.approx(float(exact.mean()), rel=WITHIN[name])


@EVERY
def test_where_the_box_binds_the_distance_is_near_the_quadratic_programme_s(name):
    """Images at the box's corners: the exact answer is that of min ||d||^2, w·d >= gap, in the box (two classes)."""
    model, x, _ = linear_problem(2, seed=3)
    x = (x > 0.5).float() * 0.96 + 0.02
    y = model(x).argmax(1)
    x, y = x[:6], y[:6]
    found = OUTCOMES[name](model, x, y)
    weight = (model[1].weight[1] - model[1].weight[0]).detach().double()
    gaps = (model(x)[:, 0] - model(x)[:, 1]).detach().double().abs()
    for row in range(len(x)):
        toward = weight if y[row] == 0 else -weight
        pixels = x[row].flatten().double()
        normal, gap = toward.numpy(), float(gaps[row])
        solved = minimize(
            lambda d: float(d @ d),
            (toward * gaps[row] / toward.square().sum()).numpy(),
            jac=lambda d: 2 * d,
            bounds=[(-float(p), 1 - float(p)) for p in pixels],
            constraints={
                "type": "ineq",
                "fun": lambda d, w=normal, g=gap: w @ d - g,
                "jac": lambda d, w=normal: w,
            },
            method="SLSQP",
        )
        assert solved.success
        exact = math.sqrt(solved.fun)
        assert exact > float(gaps[row] / weight.norm()) * 1.01  # the box binds
        assert float(found.distances[row]) >= exact * (1 - 1e-4)
        # DeepFool stops at the first crossing; its published form promises no optimum in a box.
        assert float(found.distances[row]) <= exact * (1.1 if name == "deepfool" else 1 + WITHIN[name])


class Pixels(nn.Module):
    """Features are the pixels."""

    def forward(self, x):
        return x.flatten(1)


@EVERY
def test_one_centroid_a_class_on_the_pixels_falls_at_the_bisector(name):
    generator = torch.Generator().manual_seed(0)
    centroids = 0.5 + 0.2 * torch.randn(4, 12, generator=generator)
    model = Classifier(Pixels(), ClusterHead(centroids, torch.arange(4), 0.01), [0.0], [1.0]).eval()
    x = 0.5 + 0.1 * torch.randn(16, 1, 3, 4, generator=generator)
    y = model(x).argmax(1)
    found = OUTCOMES[name](model, x, y)
    points, mu = x.flatten(1).double(), centroids.double()
    squared = (points.unsqueeze(1) - mu).square().sum(2)
    to_bisector = (squared - squared.gather(1, y[:, None])) / (2 * (mu[y].unsqueeze(1) - mu).norm(dim=2))
    exact = to_bisector.scatter(1, y[:, None], torch.inf).amin(1)
    assert bool(found.broken.all())
    assert bool((found.distances <= exact * (1 + WITHIN[name])).all())
    assert bool((found.distances >= exact * (1 - 1e-4) - 1e-6).all())


def perceptron(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 4)).double()


def digits_like(n=13, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 3, 4, generator=generator, dtype=torch.float64), torch.arange(n) % 4


@EVERY
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_found_points_are_in_the_box_misclassified_and_as_far_as_they_say(name, seed):
    model, (x, y) = perceptron(seed), digits_like(9, seed)
    found = quick(name, model, x, y)
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(x).argmax(1) != y, found.natural)
        assert torch.equal(model(found.x_adv).argmax(1) != y, found.broken)
    assert float(found.x_adv.min()) >= 0
    assert float(found.x_adv.max()) <= 1
    moved = (found.x_adv - x).flatten(1).norm(dim=1)
    assert torch.allclose(found.distances[found.broken], moved[found.broken], rtol=1e-6, atol=0)
    assert bool((found.distances[found.natural] == 0).all())
    assert torch.equal(found.x_adv[~found.broken | found.natural], x[~found.broken | found.natural])
    assert bool(found.distances[~found.broken].isinf().all())


@EVERY
def test_results_do_not_depend_on_the_batch_and_repeat(name):
    model, (x, y) = perceptron(), digits_like()
    whole, again = quick(name, model, x, y), quick(name, model, x, y)
    parts = [quick(name, model, a, b) for a, b in zip(x.split(3), y.split(3), strict=True)]
    assert torch.equal(whole.x_adv, again.x_adv)
    assert torch.equal(whole.broken, torch.cat([part.broken for part in parts]))
    assert torch.allclose(whole.x_adv, torch.cat([part.x_adv for part in parts]), rtol=0, atol=1e-6)


@EVERY
def test_the_model_is_left_as_it_was(name):
    model, (x, y) = perceptron(), digits_like()
    model.train()
    model[1].weight.requires_grad_(False)
    quick(name, model, x, y)
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in model.parameters())


@EVERY
def test_more_steps_never_lose_what_few_found_on_a_smooth_model(name):
    model, (x, y) = perceptron(1), digits_like(seed=1)
    few, many = quick(name, model, x, y), OUTCOMES[name](model, x, y)
    assert not bool((few.broken & ~many.broken).any())
    assert mean_norm(many)[0] <= mean_norm(few)[0] * 1.001 or mean_norm(many)[1] > mean_norm(few)[1]


class Flat(nn.Module):
    """Constant logits: no gradient, nothing to find."""

    def forward(self, x):
        return torch.tensor([1.0, 0.0, 0.0]).expand(len(x), 3)


@EVERY
def test_a_model_without_gradients_keeps_its_images_and_says_so(name):
    x = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    found = quick(name, Flat(), x, torch.tensor([0, 0, 1, 0]))
    assert found.broken.tolist() == [False, False, True, False]
    assert torch.equal(found.x_adv, x)
    assert found.distances.tolist() == [math.inf, math.inf, 0.0, math.inf]
    mean, count = mean_norm(found)
    assert math.isnan(mean)
    assert count == 0


@EVERY
def test_an_image_on_its_boundary_falls_at_almost_no_distance(name):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
        model[1].bias.zero_()
    x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)  # both logits are equal: argmax takes class 0
    found = OUTCOMES[name](model, x, torch.tensor([0]))
    if name != "deepfool":  # whose linearised step has length 0 there
        assert bool(found.broken.all())
        assert float(found.distances) < 1e-3


@EVERY
def test_an_empty_batch_and_all_misclassified_need_no_attack(name):
    model, x, y = linear_problem(3, n=4)
    wrong = OUTCOMES[name](model, x, (y + 1) % 3)
    assert bool(wrong.natural.all())
    assert (wrong.forwards, wrong.backwards) == (4, 0)
    assert torch.equal(wrong.x_adv, x)
    assert OUTCOMES[name](model, x[:0], y[:0]).x_adv.shape == (0, 3, 4, 4)


def test_the_mean_norm_counts_what_the_attack_broke_alone():
    x = torch.zeros(4, 1)
    found = MinimalOutcome(
        x,
        torch.tensor([True, True, False, True]),
        torch.tensor([True, False, False, False]),
        torch.tensor([0.0, 1.0, torch.inf, 2.0], dtype=torch.float64),
        0,
        0,
    )
    assert mean_norm(found) == (1.5, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: ddn(m, x, y, steps=0), "steps must be >= 1, found 0"),
        (lambda m, x, y: carlini_wagner(m, x, y, searches=0), "searches must be >= 1, found 0"),
        (lambda m, x, y: deepfool(m, x * 2, y), r"pixels must be in \[0, 1\]"),
        (lambda m, x, y: ddn(m, x, y + 7), "outside the model's 3 classes"),
        (lambda m, x, y: fgsm(m, x, y, eps=8), "did you mean 8/255"),
        (lambda m, x, y: fgsm(m, x, y, eps=0.1, norm="L1"), "norm 'L1' is not one of Linf, L2"),
    ],
)
def test_impossible_arguments_are_named(call, message):
    model, x, y = linear_problem(3, n=4, spread=0.4)
    with pytest.raises(ValueError, match=message):
        call(model, x, y)


@pytest.mark.parametrize(("norm", "eps", "dual"), [("Linf", 0.01, 1), ("L2", 0.05, 2)])
def test_fgsm_breaks_a_binary_linear_model_exactly_where_the_distance_is_below_eps(norm, eps, dual):
    model, x, y = linear_problem(2, n=80, dtype=torch.float64)
    weight = (model[1].weight[1] - model[1].weight[0]).detach()
    gaps = (model(x)[:, 0] - model(x)[:, 1]).detach().abs()
    exact = gaps / torch.linalg.vector_norm(weight, dual)
    found = fgsm.outcome(model, x, y, eps=eps, norm=norm)
    assert 10 < int((exact < eps).sum()) < 70
    assert torch.equal(found.broken, exact < eps)
    assert torch.equal(found.step, torch.where(exact < eps, 1, -1))
    assert torch.equal(model(found.x_adv).argmax(1) != y, found.broken)


def test_fgsm_is_one_step_of_length_eps_and_leaves_wrong_images_alone():
    model, (x, y) = perceptron(), digits_like()
    model.eval()
    wrong = model(x).argmax(1) != y
    assert 0 < int(wrong.sum()) < len(x)
    found = fgsm.outcome(model, x, y, eps=0.05)
    assert torch.equal(found.x_adv[wrong], x[wrong])
    assert found.step[wrong].eq(0).all()
    inside = (x > 0.05) & (x < 0.95) & ~wrong.view(-1, 1, 1, 1)
    assert torch.allclose((found.x_adv - x).abs()[inside], torch.tensor(0.05, dtype=torch.float64), rtol=1e-9)
    assert torch.equal(fgsm(model, x, y, eps=0.0), x)
    right = int((~wrong).sum())
    assert (found.forwards, found.backwards) == (len(x) + 2 * right, right)
