"""Balls: projections against brute force, uniform draws by their distribution, steps by their length."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from corral.attacks.balls import NORMS, ascend, l2_norms, per_example, project, random_in_ball, select

radii = st.floats(0, 1.5)
seeds = st.integers(0, 10_000)
shapes = st.sampled_from([(1, 1, 1, 1), (3, 1, 2, 2), (5, 3, 4, 2)])
norms = st.sampled_from(NORMS)


def images_and_points(shape, seed, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    return x, x + spread * torch.randn(shape, generator=generator, dtype=torch.float64)


def distances(x_adv, x, norm):
    delta = (x_adv - x).flatten(1)
    return delta.abs().amax(1) if norm == "Linf" else delta.square().sum(1).sqrt()


@given(shapes, seeds, radii, norms)
@settings(max_examples=60, deadline=None)
def test_projections_land_in_ball_and_box_and_stay(shape, seed, eps, norm):
    x, points = images_and_points(shape, seed)
    found = project(points, x, eps, norm)
    assert bool((distances(found, x, norm) <= eps + 1e-12).all())
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert torch.allclose(project(found, x, eps, norm), found, rtol=0, atol=1e-12)


@given(shapes, seeds, radii, norms)
@settings(max_examples=40, deadline=None)
def test_points_of_ball_and_box_are_left_where_they_are(shape, seed, eps, norm):
    x, _ = images_and_points(shape, seed)
    inside = random_in_ball(x, 0.999 * eps, norm, torch.Generator().manual_seed(seed))
    assert torch.allclose(project(inside, x, eps, norm), inside, rtol=0, atol=1e-15)


@given(seeds, radii)
@settings(max_examples=30, deadline=None)
def test_linf_projection_is_each_coordinates_nearest_point_of_ball_and_box(seed, eps):
    x, points = images_and_points((2, 1, 1, 3), seed)
    found = project(points, x, eps, "Linf")
    for value, centre, point in zip(*(t.flatten().tolist() for t in (found, x, points)), strict=True):
        low, high = max(0.0, centre - eps), min(1.0, centre + eps)
        assert value == pytest.approx(float(np.clip(point, low, high)), abs=1e-15)


@pytest.mark.parametrize("seed", range(6))
def test_l2_projection_is_the_nearest_point_of_the_ball_by_a_constrained_solver(seed):
    # Far from the box's faces, so that the box plays no part.
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 + 0.2 * torch.rand(1, 1, 1, 3, generator=generator, dtype=torch.float64)
    point = x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    centre, target, eps = x.flatten().numpy(), point.flatten().numpy(), 0.2
    solved = optimize.minimize(
        lambda z: np.sum((z - target) ** 2),
        centre,
        jac=lambda z: 2 * (z - target),
        constraints={
            "type": "ineq",
            "fun": lambda z: eps**2 - np.sum((z - centre) ** 2),
            "jac": lambda z: 2 * (centre - z),
        },
        method="SLSQP",
        options={"ftol": 1e-10},
    )
    assert solved.success
    np.testing.assert_allclose(project(point, x, eps, "L2").flatten().numpy(), solved.x, atol=1e-4)


def test_l2_projection_is_ball_then_box_as_documented():
    x = torch.tensor([[0.9, 0.5]])
    point = torch.tensor([[1.7, 1.1]])  # delta (0.8, 0.6), of length 1
    assert torch.allclose(project(point, x, 0.5, "L2"), torch.tensor([[1.0, 0.8]]))


def test_l2_norms_neither_underflow_nor_overflow():
    deltas = torch.tensor([[3e-30, 4e-30], [3e30, 4e30], [0.0, 0.0], [-3.0, 4.0]])
    assert torch.allclose(l2_norms(deltas), torch.tensor([5e-30, 5e30, 0.0, 5.0]), rtol=1e-6, atol=0)


def test_per_example_values_broadcast_over_images():
    assert per_example(torch.arange(2.0), torch.zeros(2, 3, 4, 4)).shape == (2, 1, 1, 1)


@given(shapes, seeds, radii, norms)
@settings(max_examples=40, deadline=None)
def test_random_points_are_in_ball_and_box(shape, seed, eps, norm):
    x, _ = images_and_points(shape, seed)
    found = random_in_ball(x, eps, norm, torch.Generator().manual_seed(seed))
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert bool((distances(found, x, norm) <= eps + 1e-12).all())
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_l2_draws_are_uniform_in_the_ball():
    # In d dimensions (radius / eps)^d is uniform on [0, 1], and a direction's first coordinate is that of the sphere.
    x = torch.full((4000, 1, 1, 3), 0.5, dtype=torch.float64)
    delta = (random_in_ball(x, 0.3, "L2", torch.Generator().manual_seed(3)) - x).flatten(1)
    lengths = delta.square().sum(1).sqrt()
    assert stats.kstest(((lengths / 0.3) ** 3).numpy(), "uniform").pvalue > 0.01
    # Archimedes: on the sphere in three dimensions every coordinate is uniform on [-1, 1].
    for coordinate in (delta / lengths[:, None]).T:
        assert stats.kstest(coordinate.numpy(), "uniform", args=(-1, 2)).pvalue > 0.01


def test_linf_draws_are_uniform_in_the_cube():
    x = torch.full((2000, 1, 2, 2), 0.5, dtype=torch.float64)
    delta = random_in_ball(x, 0.3, "Linf", torch.Generator().manual_seed(4)) - x
    assert float(delta.mean()) == pytest.approx(0, abs=4 * 0.3 / (3 * 8000) ** 0.5)
    assert float(delta.var()) == pytest.approx(0.3**2 / 3, rel=0.05)
    assert stats.kstest(delta.flatten().numpy(), "uniform", args=(-0.3, 0.6)).pvalue > 0.01
    correlations = torch.corrcoef(delta.flatten(1).T) - torch.eye(4)
    assert float(correlations.abs().max()) < 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_draws_follow_the_generator_alone(norm):
    x = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    first, again, other = (random_in_ball(x, 0.1, norm, torch.Generator().manual_seed(s)) for s in (5, 5, 6))
    torch.manual_seed(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_generator_the_global_one_is_used(norm):
    x = torch.full((2, 1, 2, 2), 0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        free = random_in_ball(x, 0.1, norm)
    assert torch.equal(free, random_in_ball(x, 0.1, norm, torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("norm", NORMS)
def test_no_images_give_no_points(norm):
    assert random_in_ball(torch.zeros(0, 1, 2, 2), 0.1, norm).shape == (0, 1, 2, 2)


@given(shapes, seeds, st.floats(1e-3, 2), st.floats(-300, 300), norms)
@settings(max_examples=60, deadline=None)
def test_a_step_has_exactly_its_length_whatever_the_gradients_scale(shape, seed, step_size, exponent, norm):
    x, points = images_and_points(shape, seed)
    gradient = (points - x) * 10**exponent
    found = ascend(x, gradient, step_size, norm)
    assert torch.allclose(distances(found, x, norm), torch.full((shape[0],), step_size, dtype=x.dtype), rtol=1e-9)
    # The step climbs: its inner product with the gradient's direction is positive.
    assert bool((((found - x) * (points - x)).flatten(1).sum(1) > 0).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e30])
def test_float32_gradients_of_any_scale_step_alike(norm, scale):
    x = torch.zeros(1, 1, 1, 2)
    direction = torch.tensor([[[[1.0, -2.0]]]])
    expected = torch.tensor([1.0, -1.0]) if norm == "Linf" else torch.tensor([1.0, -2.0]) / 5**0.5
    assert torch.allclose(ascend(x, direction * scale, 0.1, norm).flatten(), 0.1 * expected, rtol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_no_step(norm):
    x, points = images_and_points((3, 1, 2, 2), 0)
    gradient = points - x
    gradient[1] = 0
    found = ascend(x, gradient, 0.1, norm)
    assert torch.equal(found[1], x[1])
    assert not torch.equal(found[0], x[0])


@given(seeds, st.floats(1e-3, 1))
@settings(max_examples=20, deadline=None)
def test_a_step_is_the_steepest_of_its_length(seed, step_size):
    # Linf: step * ||g||_1; L2: step * ||g||_2 (the dual norms).
    x, points = images_and_points((2, 1, 2, 3), seed)
    gradient = points - x
    gains = {norm: ((ascend(x, gradient, step_size, norm) - x) * gradient).flatten(1).sum(1) for norm in NORMS}
    assert torch.allclose(gains["Linf"], step_size * gradient.abs().flatten(1).sum(1))
    assert torch.allclose(gains["L2"], step_size * gradient.square().flatten(1).sum(1).sqrt())


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_selected_rows_keep_their_order_of_memory(order):
    x, rows = torch.rand(5, 3, 4, 4).contiguous(memory_format=order), torch.tensor([0, 3])
    assert torch.equal(select(x, rows), x[rows])
    assert select(x, rows).stride() == x[rows].stride()
