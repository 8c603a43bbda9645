"""Exact Lipschitz constants of small ReLU networks against closed forms and dense sampling of Jacobians."""

import math

import pytest
import torch
from torch import nn

from corral.certify import exact_lipschitz, lipschitz_upper, local_lipschitz
from corral.errors import UsageError
from corral.models import MLP, Classifier, ConvNet, LinearHead


def network(sizes, seed=0, gain=2.0, rectify=False):
    torch.manual_seed(seed)
    net = MLP(sizes[0], sizes[1:-1], sizes[-1], rectify=rectify).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(gain)
    return net


def jacobian_norms(net, points):
    """(P,) by automatic differentiation, a feature at a time."""
    x = points.clone().requires_grad_(True)
    features = net(x).sum(0)
    rows = [torch.autograd.grad(value, x, retain_graph=True)[0] for value in features]
    return torch.linalg.matrix_norm(torch.stack(rows, 1), 2)


def grid(low, high, count, dimension):
    # Off the corners, and off kinks at round numbers.
    axis = low + (high - low) * (torch.arange(count, dtype=torch.float64) + 0.4142) / count
    return torch.cartesian_prod(*[axis] * dimension).view(-1, dimension)


@pytest.mark.parametrize(
    ("sizes", "rectify", "tolerance"),
    [
        ((2, 20, 20, 2), False, 1e-3),
        ((2, 20, 20, 20, 2), False, 1e-3),
        ((2, 20, 20, 64), False, 1e-3),
        ((2, 20, 16), True, 1e-3),
        ((1, 30, 30, 3), False, 1e-6),
        ((3, 10, 10, 4), False, 1e-2),
    ],
)
def test_the_constant_is_what_dense_sampling_finds(sizes, rectify, tolerance):
    net = network(sizes, seed=len(sizes), rectify=rectify)
    found = exact_lipschitz(net, -3.0, 3.0, tolerance=tolerance)
    assert found.converged
    assert found.lower <= found.upper <= found.lower * (1 + tolerance)
    counts = {1: 40_000, 2: 250, 3: 40}
    sampled = jacobian_norms(net, grid(-3.0, 3.0, counts[sizes[0]], sizes[0]))
    assert float(sampled.max()) <= found.upper
    assert float(sampled.max()) >= 0.9 * found.lower  # the steepest piece may be smaller than the grid's mesh
    assert found.upper <= lipschitz_upper(net, (sizes[0],)).value * (1 + 1e-12)


def test_no_pair_of_points_is_stretched_more():
    net = network((2, 16, 16, 5), seed=7)
    found = exact_lipschitz(net, 0.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 20_000, 2, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        ratio = (net(x) - net(y)).norm(dim=1) / (x - y).norm(dim=1)
    assert float(ratio.max()) <= found.upper


def sequence(*weights, biases=None):
    layers = []
    for place, weight in enumerate(weights):
        weight = torch.tensor(weight, dtype=torch.float64)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=biases is not None).double()
        with torch.no_grad():
            layer.weight.copy_(weight)
            if biases is not None:
                layer.bias.copy_(torch.tensor(biases[place], dtype=torch.float64))
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


CLOSED = [
    # |x| + |y|: gradient (±1, ±1) everywhere
    (sequence([[1, 0], [-1, 0], [0, 1], [0, -1]], [[1, 1, 1, 1]]), -1.0, 1.0, math.sqrt(2)),
    # relu(x) - relu(-x) is x: the pattern of slope 2 is nowhere
    (sequence([[1.0], [-1.0]], [[1, -1]]), -1.0, 1.0, 1.0),
    # the same neuron twice: on together
    (sequence([[1.0], [1.0]], [[3, -1]]), -1.0, 1.0, 2.0),
    # multiples of one neuron u = x + 2 y: slope 0.1 + 0.5 where u > 0 and 0.5 where u < 0, never both
    (sequence([[0.1, 0.2], [-0.5, -1.0], [0.25, 0.5]], [[1, -1, 2]]), -1.0, 1.0, 0.6 * math.sqrt(5)),
    # max(x, y) = y + relu(x - y), whose slope is 1 on both sides
    (sequence([[1, -1], [0, 1], [0, -1]], [[1, 1, -1]]), -1.0, 1.0, 1.0),
    # a hat of slope 5 up and 5 down on [0.3, 0.3002], with feet of slope 0
    (sequence([[5], [10], [5]], [[1, -1, 1]], biases=[[-1.5, -3.001, -1.501], [0.0]]), 0.0, 1.0, 5.0),
    # off in the box: constant
    (sequence([[1, 1]], [[7.0]], biases=[[-9.0], [1.0]]), -1.0, 1.0, 0.0),
]


@pytest.mark.parametrize(("net", "low", "high", "truth"), CLOSED)
def test_constants_known_in_closed_form(net, low, high, truth):
    found = exact_lipschitz(net, low, high, tolerance=1e-6, seconds=10)
    assert found.converged
    assert found.lower <= truth * (1 + 1e-12)
    assert truth <= found.upper <= truth * (1 + 2e-6) + 1e-10


def test_the_constant_is_of_the_box():
    """relu(x - 1) times 4 beside x: slope 1 left of 1, 5 right of it."""
    net = sequence([[1.0], [1.0], [-1.0]], [[4, 1, -1]], biases=[[-1.0, 0.0, 0.0], [0.0]])
    assert exact_lipschitz(net, -2.0, 0.99, tolerance=1e-6).upper == pytest.approx(1.0, rel=1e-5)
    assert exact_lipschitz(net, -2.0, 1.01, tolerance=1e-6).lower == pytest.approx(5.0, rel=1e-5)
    beside = local_lipschitz(net, torch.tensor([[0.0], [1.0], [3.0], [0.5]]), torch.tensor([0.9, 0.1, 1.0, 0.6]))
    assert bool(beside.converged.all())
    torch.testing.assert_close(beside.upper, torch.tensor([1.0, 5.0, 5.0, 5.0]).double(), rtol=1e-5, atol=0)


def test_without_hidden_layers_it_is_the_matrix_s_norm():
    net = network((5, 7))
    found = exact_lipschitz(net, -1.0, 1.0, tolerance=1e-9)
    truth = float(torch.linalg.matrix_norm(net.layers[1].weight.detach(), 2))
    assert found.boxes == 1
    assert found.lower <= truth <= found.upper <= found.lower * (1 + 1e-9)


def test_a_classifier_s_constant_is_in_pixel_units():
    net = network((2, 12, 3))
    model = Classifier(net, LinearHead(3, 2), [0.25, 0.5], [0.5, 0.5]).double()
    inside = exact_lipschitz(net, torch.tensor([-0.5, -1.0]), torch.tensor([1.5, 1.0]))
    pixels = exact_lipschitz(model, 0.0, 1.0)
    assert pixels.converged
    assert pixels.lower == pytest.approx(inside.lower / 0.5, rel=2e-3)


def test_around_points_each_constant_is_its_own_cube_s():
    net = network((2, 20, 20, 2), seed=3)
    points = 4 * torch.rand(20, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 2
    found = local_lipschitz(net, points, 0.2, tolerance=1e-3)
    assert bool(found.converged.all())
    whole = exact_lipschitz(net, -3.0, 3.0)
    assert bool((found.lower <= whole.upper).all())
    for place in (0, 7, 19):
        low, high = points[place].flatten() - 0.2, points[place].flatten() + 0.2
        alone = exact_lipschitz(net, low, high)
        assert float(found.lower[place]) <= alone.upper
        assert alone.lower <= float(found.upper[place])
        sampled = jacobian_norms(net, low + (high - low) * grid(0.0, 1.0, 60, 2))
        assert float(sampled.max()) <= float(found.upper[place])
    assert float(found.upper.min()) < 0.9 * whole.lower  # there is a point to going local


def test_a_search_that_ran_out_says_so_and_its_bounds_hold():
    net = network((2, 20, 20, 2), seed=4)
    exact = exact_lipschitz(net, -3.0, 3.0)
    short = exact_lipschitz(net, -3.0, 3.0, most_boxes=3)
    assert not short.converged
    assert short.boxes == 3
    assert short.lower <= exact.upper
    assert exact.lower <= short.upper <= lipschitz_upper(net, (2,)).value * (1 + 1e-12)


def test_kinks_that_all_meet_at_one_point_leave_the_bounds_apart_and_said_so():
    net = network((2, 20, 3), seed=5)
    with torch.no_grad():
        net.layers[1].bias.zero_()
    around = exact_lipschitz(net, -1.0, 1.0, seconds=1.0)
    away = exact_lipschitz(net, torch.tensor([0.1, -1.0]), torch.tensor([1.0, 1.0]))
    assert not around.converged
    assert away.converged
    assert float(jacobian_norms(net, grid(-1.0, 1.0, 100, 2)).max()) <= around.upper


def test_no_points_have_no_constants():
    found = local_lipschitz(network((2, 4, 2)), torch.zeros(0, 2), 0.1)
    assert found.lower.shape == found.upper.shape == found.converged.shape == (0,)
    assert found.boxes == 0


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (
            ConvNet(1, 8, width=2),
            "branch and bound needs an MLP or an nn.Sequential of Linear and ReLU .* found ConvNet",
        ),
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh()), "found Tanh"),
        (nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), "starts with a Linear, found ReLU"),
        (nn.Sequential(nn.Flatten()), "at least one Linear"),
    ],
)
def test_other_networks_are_refused(net, words):
    with pytest.raises(UsageError, match=words):
        exact_lipschitz(net, -1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": 1.0}, "low < high"),
        ({"high": math.inf}, "finite"),
        ({"low": torch.zeros(3)}, r"numbers or \(2,\), found \(3,\) and \(\)"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
    ],
)
def test_an_impossible_box_or_tolerance_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        exact_lipschitz(network((2, 4, 2)), **{"low": -1.0, "high": 1.0} | change)


def test_impossible_points_and_weights_are_refused():
    net = network((2, 4, 2))
    with pytest.raises(ValueError, match=r"points must have 2 values each, found \(5, 3\)"):
        local_lipschitz(net, torch.zeros(5, 3), 0.1)
    with pytest.raises(ValueError, match=r"radius must be a number or \(5,\), found \(4,\)"):
        local_lipschitz(net, torch.zeros(5, 2), torch.ones(4))
    with torch.no_grad():
        net.layers[1].bias[0] = math.nan
    with pytest.raises(ValueError, match="weights must be finite"):
        local_lipschitz(net, torch.zeros(5, 2), 0.1)
