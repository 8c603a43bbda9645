"""Square Attack: its schedule and moves against the paper, exact answers of linear models, and the public code."""

import math
import warnings
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from sklearn.datasets import load_digits
from torch import nn

from corral.attacks.noise import image_keys
from corral.attacks.objectives import margin
from corral.attacks.square.attack import square
from corral.attacks.square.l1 import L1Search, project_l1
from corral.attacks.square.l2 import L2Search, bumps
from corral.attacks.square.linf import LinfSearch
from corral.attacks.square.windows import Grid, Windows, window_share
from corral.errors import CorralError

NORMS = ["Linf", "L2", "L1"]
EPS = {"Linf": 0.1, "L2": 0.5, "L1": 1.5}
# The largest distance of two images, by the number of their values.
WIDEST = {"Linf": lambda values: 1.0, "L2": math.sqrt, "L1": float}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def lengths(deltas, norm):
    order = {"Linf": math.inf, "L2": 2, "L1": 1}[norm]
    return torch.linalg.vector_norm(deltas.flatten(1).double(), order, dim=1)


def network(shape=(3, 6, 6), classes=3, seed=0):
    """A small net whose rows are computed alike in any batch, up to float64 rounding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = nn.Linear(math.prod(shape), 16)
        return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(16, classes)).eval()


def batch(n=12, shape=(3, 6, 6), seed=1, model=None):
    x = torch.rand(n, *shape, generator=seeded(seed))
    y = torch.randint(3, (n,), generator=seeded(seed)) if model is None else model(x).argmax(1)
    return x, y


class Recorder(nn.Module):
    """Keeps a copy of all that the model is asked."""

    def __init__(self, model):
        super().__init__()
        self.model, self.asked = model, []

    def forward(self, x):
        self.asked.append(x.clone())
        return self.model(x)


class Unbreakable(nn.Module):
    """Class 0 for every image, with a margin that images do change."""

    def forward(self, x):
        return torch.stack([x.flatten(1).sum(1) + 1e6, -x.flatten(1).square().sum(1)], 1)


# The schedule and the windows


def test_the_schedule_is_the_published_table():
    # The authors' p_selection at 10,000 iterations, p_init 0.8: each range's first and last iteration.
    table = {
        (0, 10): 1,
        (11, 50): 2,
        (51, 200): 4,
        (201, 500): 8,
        (501, 1000): 16,
        (1001, 2000): 32,
        (2001, 4000): 64,
        (4001, 6000): 128,
        (6001, 8000): 256,
        (8001, 9999): 512,
    }
    for (first, last), divisor in table.items():
        for iteration in (first, (first + last) // 2, last):
            assert window_share(iteration) == 0.8 / divisor
    code = pytest.importorskip("pyautoattack.square")
    attack = code.SquareAttack(None, n_queries=5000, p_init=0.8, resc_schedule=False)
    assert all(window_share(i) == attack.p_selection(i) for i in range(5000))


@pytest.mark.parametrize("size", [4, 8, 28, 32, 64])
def test_windows_of_square_images_have_the_published_sides(size):
    grid = Grid.of(torch.Size((3, size, size)))
    for iteration in (0, 11, 51, 201, 501, 1001, 2001, 4001):
        share = window_share(iteration)
        side = min(max(round(math.sqrt(share * size * size)), 1), size)
        assert grid.window(share) == (side, side)
        side = max(round(math.sqrt(share * size * size)), 3)
        side = min(side + (side % 2 == 0), size)
        assert grid.window(share, 3, odd=True) == (side, side)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    share=st.floats(1e-3, 0.8),
    least=st.sampled_from([1, 3]),
    odd=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_windows_fit_any_image_and_keep_their_area(height, width, share, least, odd):
    tall, wide = Grid(1, height, width).window(share, least, odd)
    assert 1 <= tall <= height
    assert 1 <= wide <= width
    assert Grid(1, width, height).window(share, least, odd) == (wide, tall)
    area = share * height * width
    # Rounding of a side, the least side and its oddness are all that the area may be off by.
    side = max(math.sqrt(area) + 1.5, least)
    assert tall * wide <= max(side**2, area + 0.5 * min(height, width), 3 * min(height, width))
    if not odd and math.sqrt(area) >= least:
        assert tall * wide >= min((math.sqrt(area) - 0.5) ** 2, area - 0.5 * min(height, width) - 1e-9)


def test_shapes_become_channels_rows_and_columns():
    assert Grid.of(torch.Size((3, 5, 7))) == Grid(3, 5, 7)
    assert Grid.of(torch.Size((9,))) == Grid(1, 1, 9)
    assert Grid.of(torch.Size((5, 7))) == Grid(1, 5, 7)
    assert Grid.of(torch.Size((2, 3, 5, 7))) == Grid(6, 5, 7)


def test_each_window_is_a_whole_rectangle_and_all_positions_come_up():
    grid, keys = Grid(2, 4, 6), image_keys(torch.rand(50, 5, generator=seeded()), 0)
    windows = Windows(keys, grid, lambda i: (2, 3), count=2, coins=3, first_draw=7)
    corners = []
    for iteration in range(100):
        places, coins = windows.at(iteration)
        assert coins.shape == (50, 3)
        for window in places:
            mask = torch.zeros(50, 2 * 4 * 6).scatter_(1, window, 1.0).view(50, 2, 4, 6)
            assert torch.equal(mask[:, 0], mask[:, 1])
            rows, columns = mask[:, 0].amax(2), mask[:, 0].amax(1)
            assert rows.sum(1).tolist() == [2] * 50
            assert columns.sum(1).tolist() == [3] * 50
            assert bool((mask[:, 0].sum((1, 2)) == 6).all())
            corners.append(window[:, 0])
    found = torch.bincount(torch.cat(corners), minlength=24).view(4, 6)
    # 10,000 windows over 3 x 4 positions, the last row and column among them; six standard deviations.
    assert bool(((found[:3, :4] - 10000 / 12).abs() < 6 * math.sqrt(10000 / 12)).all())
    assert int(found.sum() - found[:3, :4].sum()) == 0


def test_windows_belong_to_the_image_and_stay_with_it_as_others_leave():
    grid, keys = Grid(1, 9, 9), image_keys(torch.rand(6, 4, generator=seeded()), 3)
    draw = partial(Windows, grid=grid, shape=lambda i: (1 + i % 3, 2), count=1, coins=1, first_draw=0)
    whole, alone = draw(keys), draw(keys[[4]])
    for iteration in range(150):
        if iteration == 70:
            whole.keep(torch.tensor([1, 4]))
        row = 4 if iteration < 70 else 1
        (places,), coins = whole.at(iteration)
        (own_places,), own_coins = alone.at(iteration)
        assert torch.equal(places[row], own_places[0])
        assert torch.equal(coins[row], own_coins[0])


# The moves


def slow_bump(tall, wide, steepness):
    """The sum of boxes that grow from the middle, one after the other."""
    bump = torch.zeros(tall, wide, dtype=torch.float64)
    for k in range(max(tall // 2, wide // 2) + 1):
        for row in range(tall):
            for column in range(wide):
                if abs(row - tall // 2) <= k and abs(column - wide // 2) <= k:
                    bump[row, column] += 1 / (k + 1) ** steepness
    return bump


@pytest.mark.parametrize(("order", "steepness"), [(2, 2), (1, 4)])
@pytest.mark.parametrize(("tall", "wide"), [(1, 1), (3, 3), (5, 5), (8, 8), (9, 9), (1, 7), (4, 9), (2, 1)])
def test_bumps_are_the_papers_sums(tall, wide, order, steepness):
    pair = bumps(tall, wide, order=order, steepness=steepness, device=torch.device("cpu")).view(2, tall, wide)
    for found, (rows, columns) in ((pair[0], (tall, wide)), (pair[1].T, (wide, tall))):
        upper, lower = slow_bump(rows // 2, columns, steepness), slow_bump(rows - rows // 2, columns, steepness)
        expected = torch.cat([half / torch.linalg.vector_norm(half, order) for half in (upper, -lower) if len(half)])
        assert torch.allclose(found, expected / torch.linalg.vector_norm(expected, order), atol=1e-12)
    assert torch.allclose(torch.linalg.vector_norm(pair.flatten(1), order, dim=1), torch.ones(2).double())


@pytest.mark.parametrize("order", ["L2", "L1"])
def test_the_bumps_of_a_large_window_are_the_public_codes(order):
    code = pytest.importorskip("pyautoattack.square")
    attack = code.SquareAttack(None, norm=order, eps=1.0, device="cpu")
    attack.ndims = 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        public = attack.eta(9).double()
    both = bumps(9, 9, order=2 if order == "L2" else 1, steepness=2 if order == "L2" else 4, device=public.device)
    assert min(float((both[i].view(9, 9) - public).abs().max()) for i in (0, 1)) < 1e-6


def test_linf_asks_only_corners_of_the_ball_cut_to_the_box():
    x = torch.rand(6, 3, 5, 7, generator=seeded())
    x[0], x[1] = 0, 1
    recorder = Recorder(Unbreakable())
    square(recorder, x, torch.zeros(6).long(), eps=0.3, queries=300)
    lower, upper = (x - 0.3).clamp_min(0), (x + 0.3).clamp_max(1)
    assert len(recorder.asked) == 301
    for candidate in recorder.asked[1:]:
        at_lower, at_upper = (candidate - lower).abs() <= 1e-7, (candidate - upper).abs() <= 1e-7
        assert bool((at_lower | at_upper).all())
    # The start: vertical stripes, one sign down each column of each channel.
    up = (recorder.asked[1] - upper).abs() <= 1e-7
    assert torch.equal(up, up[:, :, :1].expand_as(up))
    assert 0.3 < float(up[:, :, 0].float().mean()) < 0.7


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 11), (2, 1, 9), (20,)])
@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0])
def test_all_candidates_are_in_the_ball_and_the_box(norm, shape, scale):
    x = torch.rand(5, *shape, generator=seeded(3))
    x[0], x[1] = 0.0, 1.0
    recorder, eps = Recorder(Unbreakable()), min(EPS[norm] * scale, WIDEST[norm](math.prod(shape)))
    square(recorder, x, torch.zeros(5).long(), eps=eps, norm=norm, queries=250)
    asked = torch.stack(recorder.asked[1:])
    assert float(asked.min()) >= 0
    assert float(asked.max()) <= 1
    for candidate in asked:
        assert bool((lengths(candidate - x, norm) <= eps * (1 + 1e-6)).all())
    # They use the ball: where the box leaves room, the perturbations are eps long.
    if scale == 0.01 and norm != "L1":
        assert bool((lengths(asked[-1] - x, norm)[2:] > 0.95 * eps).all())


@pytest.mark.parametrize("search", [LinfSearch, L2Search, L1Search])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_refused_candidate_leaves_no_trace_and_no_linf_query_is_wasted(search, channels):
    x = torch.rand(8, channels, 9, 9, generator=seeded(4))
    moves = search(x, image_keys(x, 0), 0.2)
    for iteration in range(200):
        before = moves.best.clone()
        better = torch.rand(8, generator=seeded(iteration)) < 0.3
        moves.propose(iteration)
        candidate = moves.best.clone()
        if search is LinfSearch:
            assert bool((candidate != before).any(1).all())
        moves.settle(better)
        assert torch.equal(moves.best[better], candidate[better])
        assert torch.equal(moves.best[~better], before[~better])
        if search is not LinfSearch:
            mass = (moves.best.double() - x.flatten(1).double()).abs().pow(moves.order).sum(1)
            assert torch.allclose(moves.mass, mass, rtol=1e-9)


def test_an_l2_move_takes_one_window_away_and_bends_another():
    x = torch.full((40, 1, 12, 12), 0.5)
    x = x + 1e-3 * torch.rand(x.shape, generator=seeded(5))
    moves = L2Search(x, image_keys(x, 0), 0.5)
    side = moves.grid.window(window_share(600), 3, odd=True)
    assert side == (3, 3)
    before = moves.best - x.flatten(1)
    moves.propose(600)
    after = moves.best - x.flatten(1)
    assert torch.allclose(lengths(after, "L2"), torch.full((40,), 0.5).double(), rtol=1e-5)
    (first, second), _ = moves.windows.at(600)
    changed = torch.zeros(40, 144).scatter_(1, first, 1.0).scatter_(1, second, 1.0) > 0
    assert torch.equal(before[~changed], after[~changed])
    cleared = torch.zeros(40, 144).scatter_(1, second, 1.0).scatter_(1, first, 0.0) > 0
    assert bool((after[cleared] == 0).all())


@given(radius=st.floats(0, 20), seed=st.integers(0, 1000), sparse=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_l1_projection_is_the_one_of_a_bisection(radius, seed, sparse):
    x = torch.rand(4, 30, generator=seeded(seed), dtype=torch.float64)
    delta = 2 * torch.randn(4, 30, generator=seeded(seed + 1), dtype=torch.float64)
    if sparse:
        delta[:, 5:] = 0
        delta[0] = 0
    points, distances = project_l1(x + delta, x, radius)
    room = torch.where(delta > 0, 1 - x, x)
    low, high = torch.zeros(4, 1).double(), delta.abs().amax(1, keepdim=True)
    for _ in range(100):
        middle = (low + high) / 2
        short = torch.minimum((delta.abs() - middle).clamp_min(0), room).sum(1, keepdim=True) <= radius
        low, high = torch.where(short, low, middle), torch.where(short, middle, high)
    expected = x + delta.sign() * torch.minimum((delta.abs() - high).clamp_min(0), room)
    short = torch.minimum(delta.abs(), room).sum(1, keepdim=True) <= radius
    expected = torch.where(short, (x + delta).clamp(0, 1), expected)
    assert torch.allclose(points, expected, atol=1e-9)
    assert torch.allclose(distances, (points - x).abs().sum(1), atol=1e-12)
    assert bool((distances <= radius + 1e-9).all())


# Exact answers


def largest_change(x, weight, eps, norm):
    """The largest <weight, delta> over the ball and the box: closed form, bisection or linear programme."""
    if norm == "Linf":
        return (weight * torch.where(weight > 0, (x + eps).clamp_max(1), (x - eps).clamp_min(0)) - weight * x).sum(1)
    if norm == "L2":
        low, high = torch.zeros(len(x), 1).double(), torch.full((len(x), 1), 1e6).double()
        for _ in range(200):
            middle = (low + high) / 2
            inside = ((x + middle * weight).clamp(0, 1) - x).norm(dim=1, keepdim=True) <= eps
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        return (weight * ((x + low * weight).clamp(0, 1) - x)).sum(1)
    found = []
    for row in x:
        bounds = [(0, 1 - p) for p in row.tolist()] + [(0, p) for p in row.tolist()]
        cost = torch.cat([-weight, weight]).tolist()
        found.append(-linprog(cost, A_ub=[[1.0] * (2 * len(row))], b_ub=[eps], bounds=bounds).fun)
    return torch.tensor(found, dtype=torch.float64)


LINEAR = [
    ("Linf", 0.02, 0.15),
    ("L2", 0.08, 0.15),
    ("L1", 0.2, 0.15),
    ("Linf", 0.15, 0.5),
    ("L2", 0.45, 0.5),
    ("L1", 0.7, 0.5),
]


@pytest.mark.parametrize("shape", [(1, 5, 5), (25,)])
@pytest.mark.parametrize(("norm", "eps", "spread"), LINEAR)
def test_on_a_linear_model_only_breakable_images_fall_and_nearly_all_of_them(norm, eps, spread, shape):
    # Spread 0.15: far from the box; 0.5: most pixels are nearly black or white, and the box binds.
    weight = torch.randn(25, generator=seeded(7), dtype=torch.float64)
    x = 2 * torch.rand(100, 25, generator=seeded(8), dtype=torch.float64) - 1
    x = 0.5 + spread * (x.sign() * x.abs() ** 0.1 if spread == 0.5 else x)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(25, 2)).double()
    with torch.no_grad():
        linear[1].weight.copy_(torch.stack([-weight, weight]) / 2)
        linear[1].bias.copy_(torch.stack([weight.sum(), -weight.sum()]) / 4)
    signed = x @ weight - weight.sum() / 2
    y = (signed > 0).long()
    direction = torch.where(y == 1, -1.0, 1.0).double()
    gains = torch.where(y == 1, largest_change(x, -weight, eps, norm), largest_change(x, weight, eps, norm))
    breakable = gains > signed.abs()
    assert 15 <= int(breakable.sum()) <= 85
    found = square.outcome(linear, x.view(-1, *shape), y, eps=eps, norm=norm, queries=1000)
    assert not bool((found.broken & ~breakable).any())
    # The gap that 1,000 queries leave of 100 images: bumps of 3 x 3 pixels and more fit no independent weights well.
    assert int((breakable & ~found.broken).sum()) <= (3 if norm == "Linf" else 20)
    standing = ~found.broken
    gained = ((found.x_adv.flatten(1) - x) @ weight) * direction
    share = gained[standing] / gains[standing]
    assert float(share.max()) <= 1 + 1e-6
    assert float(share.min()) >= (0.9 if norm == "Linf" else 0.5)


# Promises of the attack


@pytest.mark.parametrize("norm", NORMS)
def test_the_result_is_deterministic_and_does_not_depend_on_batches_or_order(norm):
    model = network().double()
    x, y = batch(13, model=network())
    run = partial(square.outcome, model, eps=EPS[norm] / 2, norm=norm, queries=60, restarts=2)
    whole = run(x.double(), y)
    assert 0 < int(whole.broken.sum()) < 13
    again = run(x.double(), y)
    assert torch.equal(whole.x_adv, again.x_adv)
    parts = [run(rows.double(), labels) for rows, labels in zip(x.split(3), y.split(3), strict=True)]
    assert torch.equal(torch.cat([part.broken for part in parts]), whole.broken)
    assert torch.equal(torch.cat([part.step for part in parts]), whole.step)
    assert float((torch.cat([part.x_adv for part in parts]) - whole.x_adv).abs().max()) <= 1e-6
    assert sum(part.forwards for part in parts) == whole.forwards
    backwards = run(x.flip(0).double(), y.flip(0))
    assert float((backwards.x_adv.flip(0) - whole.x_adv).abs().max()) <= 1e-6
    other = run(x.double(), y, seed=1)
    assert not torch.equal(other.x_adv, whole.x_adv)


@given(
    norm=st.sampled_from(NORMS),
    seed=st.integers(0, 1000),
    scale=st.floats(0, 4),
    shape=st.sampled_from([(3, 6, 6), (1, 2, 9), (12,), (4, 3), (2, 2, 3, 4), (1, 1, 1), (1,)]),
)
@settings(max_examples=40, deadline=None)
def test_results_are_valid_broken_as_said_and_never_worse_than_their_start(norm, seed, scale, shape):
    model, eps = network(shape, seed=seed), min(EPS[norm] * scale, WIDEST[norm](math.prod(shape)))
    x, y = batch(6, shape, seed)
    found = square.outcome(model, x, y, eps=eps, norm=norm, queries=30, seed=seed)
    assert found.x_adv.shape == x.shape
    assert found.x_adv.dtype == x.dtype
    assert float(found.x_adv.min()) >= 0
    assert float(found.x_adv.max()) <= 1
    assert bool((lengths(found.x_adv - x, norm) <= eps * (1 + 1e-6)).all())
    with torch.no_grad():
        clean, logits = model(x), model(found.x_adv)
    assert torch.equal(logits.argmax(1) != y, found.broken)
    assert torch.equal(found.broken, found.step >= 0)
    wrong = clean.argmax(1) != y
    assert torch.equal(found.step == 0, wrong)
    assert torch.equal(found.x_adv[wrong], x[wrong])
    assert bool((margin(logits, y) >= margin(clean, y) - 1e-5)[~wrong].all())


@pytest.mark.parametrize("norm", NORMS)
def test_fallen_images_cost_nothing_more_and_steps_count_queries(norm):
    model = network()
    x, y = batch(30, model=model)
    y[:5] = (y[:5] + 1) % 3
    recorder = Recorder(model)
    found = square.outcome(recorder, x, y, eps=EPS[norm] / 2, norm=norm, queries=40, restarts=3)
    sizes = [len(asked) for asked in recorder.asked]
    assert found.forwards == sum(sizes)
    assert found.backwards == 0
    assert sizes[0] == 30
    assert found.step[:5].tolist() == [0] * 5
    # Query q costs the images that did not fall before it.
    expected = [int(((found.step >= query) | (found.step == -1)).sum()) for query in range(1, 121)]
    assert sizes[1:] == [size for size in expected if size]
    assert int(found.step.max()) > 1
    assert 0 < int(found.broken.sum()) < 30
    # What is returned is what was asked in that query.
    for i in (found.step > 0).nonzero().flatten().tolist():
        assert bool((recorder.asked[int(found.step[i])] == found.x_adv[i]).flatten(1).all(1).any())


def test_more_queries_and_restarts_continue_the_same_search():
    model = network()
    x, y = batch(30, model=model)
    steps = [square.outcome(model, x, y, eps=0.05, queries=queries).step for queries in (1, 5, 50, 200)]
    for few, many in pairwise(steps):
        assert torch.equal(many[few >= 0], few[few >= 0])
    assert int((steps[-1] >= 0).sum()) > int((steps[0] >= 0).sum())


def test_restarts_start_anew_however_many_there_are():
    x = torch.rand(1, 1, 8, 8, generator=seeded())
    recorder = Recorder(Unbreakable())
    square(recorder, x, torch.zeros(1).long(), eps=0.1, queries=1, restarts=40)
    assert len({tuple(asked.flatten().tolist()) for asked in recorder.asked[1:]}) > 30


def test_no_pass_follows_once_all_have_fallen():
    model = network()
    x, y = batch(model=model)
    recorder = Recorder(model)
    found = square.outcome(recorder, x, (y + 1) % 3, eps=0.1)
    assert len(recorder.asked) == 1
    assert torch.equal(found.x_adv, x)
    assert found.x_adv.data_ptr() != x.data_ptr()


def test_the_model_and_the_callers_gradients_are_as_they_were():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(32, 3)).train()
    model[1].eval()
    model[4].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = batch()
    x.requires_grad_(True)
    found = square(model, x, y, eps=0.1, queries=5)
    assert not found.requires_grad
    assert x.grad is None
    assert torch.is_grad_enabled()
    assert [module.training for module in model] == [True, False, True, True, True]
    assert [parameter.requires_grad for parameter in model.parameters()] == [True] * 5 + [False]
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("norm", NORMS)
def test_a_model_that_works_in_place_and_channels_last_images_change_nothing(norm):
    class InPlace(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x.mul_(1.0).add_(0.5).sub_(0.5))

    model = network().double()
    x, y = batch(model=network())
    x = x.double()
    run = partial(square, eps=EPS[norm] / 3, norm=norm, queries=60)
    expected, before = run(model, x, y), x.clone()
    assert torch.allclose(run(InPlace(model), x, y), expected, atol=1e-9)
    assert torch.equal(x, before)
    recorder = Recorder(model)
    last = run(recorder, x.contiguous(memory_format=torch.channels_last), y)
    assert torch.allclose(last, expected, atol=1e-9)
    assert all(asked.is_contiguous(memory_format=torch.channels_last) for asked in recorder.asked)


def test_impossible_arguments_are_named():
    model, (x, y) = network(), batch()
    with pytest.raises(ValueError, match="queries must be >= 1, found 0"):
        square(model, x, y, eps=0.1, queries=0)
    with pytest.raises(ValueError, match="norm 'L3' is not one of Linf, L2, L1"):
        square(model, x, y, eps=0.1, norm="L3")
    with pytest.raises(ValueError, match="label 7 is outside the model's 3 classes"):
        square(model, x, torch.full_like(y, 7), eps=0.1)
    with pytest.raises(ValueError, match=r"divide by 255"):
        square(model, 255 * x, y, eps=0.1)
    with pytest.raises(CorralError, match="not finite"):
        square(lambda_module(lambda images: images.flatten(1) / 0), x, y, eps=0.1)
    assert square(model, x[:0], y[:0], eps=0.1).shape == (0, 3, 6, 6)


def lambda_module(function):
    class Lambda(nn.Module):
        def forward(self, x):
            return function(x)

    return Lambda()


# The public code


@pytest.fixture(scope="module")
def digits():
    """A briefly adversarially trained network on scikit-learn's digits, and 300 images it has not seen."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=seeded())
    x = torch.tensor(data.images, dtype=torch.float32)[order].unsqueeze(1) / 16
    y = torch.tensor(data.target)[order].long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimiser = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(10):
            for rows in torch.randperm(1300).split(100):
                point = x[rows].requires_grad_(True)
                (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(point), y[rows]), point)
                optimiser.zero_grad()
                moved = (point.detach() + 0.1 * gradient.sign()).clamp(0, 1)
                nn.functional.cross_entropy(model(moved), y[rows]).backward()
                optimiser.step()
    return model.eval(), x[1300:1600], y[1300:1600]


@pytest.mark.parametrize(("norm", "eps", "queries"), [("Linf", 0.1, 300), ("L2", 0.5, 150), ("L1", 1.5, 120)])
def test_robust_accuracy_is_at_most_the_public_codes(norm, eps, queries, digits):
    public_attack = pytest.importorskip("pyautoattack.square").SquareAttack
    model, x, y = digits
    ours, theirs = [], []
    for seed in (0, 1):
        found = square(model, x, y, eps=eps, norm=norm, queries=queries, seed=seed)
        ours.append(float((model(found).argmax(1) == y).float().mean()))
        attack = public_attack(
            model, norm=norm, eps=eps, n_queries=queries, p_init=0.8, seed=seed, resc_schedule=False, device="cpu"
        )
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            public = attack.perturb(x.clone(), y)
        theirs.append(float((model(public).argmax(1) == y).float().mean()))
    assert 0.1 < sum(ours) / 2 < 0.95
    assert sum(ours) / 2 <= sum(theirs) / 2 + 0.002
