"""Projections against linear programming, SLSQP, bisection twins, and the properties that define a projection."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from corral.attacks.projections import project_l1, to_hyperplane

NORMS = ("Linf", "L2", "L1")
ORDERS = {"Linf": torch.inf, "L2": 2, "L1": 1}
EXAMPLES = settings(max_examples=40, deadline=None)


def lengths(moves, norm):
    return torch.linalg.vector_norm(moves, ORDERS[norm], dim=-1)


def problems(seed, rows=12, pixels=7, *, walls=True, dtype=torch.float64):
    """Points of the box, some on its walls; normals with some zeros; values that a random point of the box cancels."""
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return torch.rand(rows, pixels, generator=generator, dtype=dtype)

    points, other, normals = draw(), draw(), torch.randn(rows, pixels, generator=generator, dtype=dtype)
    if walls:
        points = torch.where(draw() < 0.2, points.round(), points)
        normals = torch.where(draw() < 0.15, 0.0, normals)
    return points, normals, (normals * (points - other)).sum(1)


def lp_length(point, normal, value, norm):
    """The least Linf or L1 length of a move within the box onto the hyperplane, by linear programming."""
    d = len(point)
    if norm == "Linf":  # variables: the move, and its length
        cost = np.r_[np.zeros(d), 1]
        above = np.c_[np.r_[np.eye(d), -np.eye(d)], -np.ones(2 * d)]
        equal, bounds = np.r_[normal, 0][None], [*zip(-point, 1 - point, strict=True), (0, None)]
        answer = linprog(cost, A_ub=above, b_ub=np.zeros(2 * d), A_eq=equal, b_eq=[-value], bounds=bounds)
    else:  # variables: the moves up and down
        bounds = [*zip(np.zeros(d), 1 - point, strict=True), *zip(np.zeros(d), point, strict=True)]
        answer = linprog(np.ones(2 * d), A_eq=np.r_[normal, -normal][None], b_eq=[-value], bounds=bounds)
    assert answer.status == 0
    return answer.fun


@EXAMPLES
@given(seed=st.integers(0, 10**6), norm=st.sampled_from(["Linf", "L1"]))
def test_moves_are_as_short_as_linear_programming_finds_them(seed, norm):
    points, normals, values = problems(seed, rows=4)
    moves = to_hyperplane(points, normals, values, norm)
    for row in range(4):
        exact = lp_length(points[row].numpy(), normals[row].numpy(), float(values[row]), norm)
        assert float(lengths(moves[row], norm)) == pytest.approx(exact, rel=1e-6, abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_l2_moves_agree_with_slsqp(seed):
    points, normals, values = problems(seed, rows=3)
    moves = to_hyperplane(points, normals, values, "L2")
    for row in range(3):
        point, normal, value = points[row].numpy(), normals[row].numpy(), float(values[row])
        answer = minimize(
            lambda move: (move**2).sum(),
            np.zeros_like(point),
            jac=lambda move: 2 * move,
            constraints={
                "type": "eq",
                "fun": lambda move, n=normal, v=value: n @ move + v,
                "jac": lambda _, n=normal: n,
            },
            bounds=list(zip(-point, 1 - point, strict=True)),
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 300},
        )
        assert float(lengths(moves[row], "L2")) ** 2 <= answer.fun + 1e-7
        np.testing.assert_allclose(moves[row].numpy(), answer.x, atol=1e-4)


def bisected(points, normals, values, norm):
    """A slow twin: the multiplier of a move min(multiplier * speed, room) by 200 bisections, or the greedy fill."""
    moves = torch.zeros_like(points)
    for row, (point, normal, value) in enumerate(zip(points, normals, values, strict=True)):
        direction = -torch.sign(normal) * (1 if value >= 0 else -1)
        room, weight, goal = torch.where(direction > 0, 1 - point, point), normal.abs(), abs(float(value))
        if norm == "L1":
            for pixel in weight.argsort(descending=True).tolist():
                if weight[pixel] > 0:
                    moves[row, pixel] = min(goal / float(weight[pixel]), float(room[pixel]))
                    goal -= float(weight[pixel] * moves[row, pixel])
            moves[row] *= direction
            continue
        speed = weight if norm == "L2" else torch.ones_like(weight)
        low, high = 0.0, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            enough = float((weight * torch.minimum(middle * speed, room)).sum()) >= goal
            low, high = (low, middle) if enough else (middle, high)
        moves[row] = direction * torch.minimum(high * speed, room)
    return moves


@EXAMPLES
@given(seed=st.integers(0, 10**6), norm=st.sampled_from(NORMS), reach=st.sampled_from([0.3, 1.0, 40.0]))
def test_moves_equal_the_bisection_twin_also_where_the_hyperplane_misses_the_box(seed, norm, reach):
    points, normals, values = problems(seed, rows=4, pixels=90)
    moves = to_hyperplane(points, normals, reach * values, norm)
    torch.testing.assert_close(moves, bisected(points, normals, reach * values, norm), rtol=1e-6, atol=1e-7)


@EXAMPLES
@given(seed=st.integers(0, 10**6), norm=st.sampled_from(NORMS), scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e8]))
def test_float32_moves_stay_in_the_box_and_reach_the_hyperplane_at_any_scale(seed, norm, scale):
    points, normals, values = problems(seed, rows=20, pixels=500, dtype=torch.float32)
    moves = to_hyperplane(points, scale * normals, scale * values, norm)
    ends = points + moves
    assert float(ends.min()) >= -1e-6
    assert float(ends.max()) <= 1 + 1e-6
    left = (values + (normals * moves).sum(1)).abs()
    assert float((left / normals.abs().sum(1)).max()) < 1e-6
    assert bool((moves[normals == 0] == 0).all())


@pytest.mark.parametrize("norm", NORMS)
def test_without_walls_the_length_is_the_value_over_the_dual_norm(norm):
    generator = torch.Generator().manual_seed(0)
    points = torch.full((30, 50), 0.5, dtype=torch.float64)
    normals = torch.randn(30, 50, generator=generator, dtype=torch.float64)
    values = 0.1 * torch.randn(30, generator=generator, dtype=torch.float64)
    dual = {"Linf": 1, "L2": 2, "L1": torch.inf}[norm]
    exact = values.abs() / torch.linalg.vector_norm(normals, dual, dim=1)
    torch.testing.assert_close(lengths(to_hyperplane(points, normals, values, norm), norm), exact)


@pytest.mark.parametrize("norm", NORMS)
def test_a_hyperplane_beyond_the_box_gives_its_nearest_corner(norm):
    points = torch.tensor([[0.25, 0.5, 0.75]])
    moves = to_hyperplane(points, torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([100.0]), norm)
    torch.testing.assert_close(points + moves, torch.tensor([[0.0, 1.0, 0.75]]))
    back = to_hyperplane(points, torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([-100.0]), norm)
    torch.testing.assert_close(points + back, torch.tensor([[1.0, 0.0, 0.75]]))


@pytest.mark.parametrize("norm", NORMS)
def test_degenerate_problems_stay_finite_and_move_nothing(norm):
    points = torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
    normals = torch.stack([torch.zeros(8), torch.zeros(8), torch.ones(8)])
    moves = to_hyperplane(points, normals, torch.tensor([0.0, 3.0, 0.0]), norm)
    assert bool((moves == 0).all())
    # A weight near the smallest float with a value far too large: the corner, not infinities.
    tiny = to_hyperplane(points[:1], torch.full((1, 8), 1e-38), torch.tensor([1e30]), norm)
    torch.testing.assert_close(points[:1] + tiny, torch.zeros(1, 8))


@pytest.mark.parametrize("norm", NORMS)
def test_normals_broadcast_over_several_points(norm):
    points, normals, values = problems(5, rows=6, pixels=70)
    others = points.flip(0)
    both = to_hyperplane(torch.stack([points, others]), normals.unsqueeze(0), torch.stack([values, -values]), norm)
    torch.testing.assert_close(both[0], to_hyperplane(points, normals, values, norm))
    torch.testing.assert_close(both[1], to_hyperplane(others, normals, -values, norm))


def l1_problem(seed, rows, pixels, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, pixels, generator=generator, dtype=dtype)
    x = torch.where(torch.rand(rows, pixels, generator=generator) < 0.3, x.round(), x)
    spread = 10 ** (2 * torch.rand(rows, 1, generator=generator, dtype=dtype) - 1.5)
    return x, x + spread * torch.randn(rows, pixels, generator=generator, dtype=dtype)


@EXAMPLES
@given(seed=st.integers(0, 10**6), eps=st.sampled_from([0.01, 0.5, 3.0, 50.0]))
def test_the_l1_projection_equals_its_bisection_twin(seed, eps):
    x, far = l1_problem(seed, 5, 60)
    expected = torch.empty_like(x)
    for row in range(5):
        delta = far[row] - x[row]
        room = torch.where(delta > 0, 1 - x[row], x[row])

        def perturbation(multiplier, delta=delta, room=room):
            return delta.sign() * torch.minimum((delta.abs() - multiplier).clamp_min(0), room)

        low, high = 0.0, float(delta.abs().max())
        if float(perturbation(0.0).abs().sum()) <= eps:
            high = 0.0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (low, middle) if float(perturbation(middle).abs().sum()) <= eps else (middle, high)
        expected[row] = x[row] + perturbation(high)
    torch.testing.assert_close(project_l1(far, x, eps), expected, rtol=1e-5, atol=2e-6 * max(eps, 0.1))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), eps=st.sampled_from([0.2, 1.0]))
def test_no_point_that_slsqp_finds_is_nearer_than_the_l1_projection(seed, eps):
    x, far = l1_problem(seed, 2, 6)
    ours = project_l1(far, x, eps)
    for row in range(2):
        centre, goal, d = x[row].numpy(), far[row].numpy(), 6
        delta = goal - centre
        answer = minimize(  # variables: the moves up and down
            lambda uv, delta=delta, d=d: ((uv[:d] - uv[d:] - delta) ** 2).sum(),
            np.zeros(2 * d),
            bounds=[*zip(np.zeros(d), 1 - centre, strict=True), *zip(np.zeros(d), centre, strict=True)],
            constraints={"type": "ineq", "fun": lambda uv: eps - uv.sum()},
            method="SLSQP",
            options={"ftol": 1e-13, "maxiter": 300},
        )
        assert float(((ours[row] - far[row]) ** 2).sum()) <= answer.fun + 1e-5


@EXAMPLES
@given(seed=st.integers(0, 10**6), eps=st.sampled_from([0.0, 0.3, 12.0, 100.0]))
def test_float32_l1_projections_are_in_ball_and_box_and_change_no_point_that_is(seed, eps):
    x, far = l1_problem(seed, 16, 3 * 16 * 16, torch.float32)
    shape = (16, 3, 16, 16)
    x, far = x.view(shape), far.view(shape)
    found = project_l1(far, x, eps)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    norms = (found - x).flatten(1).double().abs().sum(1)
    # Adding to x rounds each pixel by up to half of 2^-24.
    assert bool((norms <= eps * (1 + 1e-6) + 768 * 2.0**-25).all())
    again = project_l1(found, x, eps)
    torch.testing.assert_close(again, found, rtol=0, atol=1e-5 * max(eps, 0.1))
    inside = x + 0.9 * (found - x)
    assert bool((project_l1(inside, x, eps) - inside).abs().max() <= 1.2e-7)
