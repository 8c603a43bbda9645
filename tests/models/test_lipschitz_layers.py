"""Lipschitz layers: orthogonality, norms of the dense matrices, bounds that hold, tensors frozen in eval mode."""

import copy

import numpy as np
import pytest
import torch

from corral.models import SLL, HalfAbs, Orthogonal, Shift, SpaceToDepth, cayley
from corral.models.lipschitz.orthogonal import orthogonal_norm_bound

# (layer, shape of one input); weights far from their first values as well.
LAYERS = {
    "orthogonal square": (lambda: Orthogonal(12, 12), (12, 3, 3)),
    "orthogonal wide": (lambda: Orthogonal(16, 6), (16,)),
    "orthogonal tall": (lambda: Orthogonal(5, 14, bias=False), (5, 2, 2)),
    "sll dense": (lambda: SLL(10, 14), (10,)),
    "sll convolution": (lambda: SLL(4, 6, kernel=3), (4, 5, 6)),
    "half abs": (lambda: HalfAbs(), (6, 3, 3)),
    "shift": (lambda: Shift(3), (6, 4, 4)),
    "space to depth": (lambda: SpaceToDepth(), (3, 4, 6)),
}


def layer_and_points(name, scale, seed=0):
    build, shape = LAYERS[name]
    torch.manual_seed(seed)
    layer = build()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return layer.eval(), 2 * torch.randn(6, *shape)


def jacobian(layer, x):
    """The dense matrix of the layer's derivative at one input."""
    found = torch.autograd.functional.jacobian(lambda part: layer(part.unsqueeze(0)).flatten(), x)
    return found.flatten(1).double().numpy()


@pytest.mark.parametrize("scale", [0.02, 1.0, 4.0])
@pytest.mark.parametrize("name", LAYERS)
def test_the_dense_operator_norm_is_at_most_one_and_the_bound(name, scale):
    layer, points = layer_and_points(name, scale)
    bound = layer.lipschitz_bound(tuple(points.shape))
    assert bound <= 1 + 1e-5
    norms = [np.linalg.norm(jacobian(layer, x), 2) for x in points]
    # The matrix of a float32 derivative carries its own rounding, some 1e-7.
    assert max(norms) <= bound + 2e-6
    assert max(norms) <= 1 + 1e-5
    first, second = points[:3], points[3:]
    moved = (layer(first) - layer(second)).flatten(1).norm(dim=1)
    assert bool((moved <= (1 + 1e-5) * (first - second).flatten(1).norm(dim=1)).all())


@pytest.mark.parametrize("name", ["orthogonal square", "orthogonal tall", "half abs", "shift", "space to depth"])
def test_isometries_keep_every_direction(name):
    layer, points = layer_and_points(name, 1.0)
    for x in points:
        assert np.linalg.svd(jacobian(layer, x), compute_uv=False).min() >= 1 - 1e-5


def test_isometries_move_values_or_signs_only():
    x = torch.randn(2, 8, 4, 6)
    for layer in (Shift(2), Shift(3), SpaceToDepth(), HalfAbs()):
        assert torch.equal(layer(x).abs().flatten(1).sort().values, x.abs().flatten(1).sort().values)
    shifted = Shift(2)(x)
    assert torch.equal(shifted[:, 0, 1:], x[:, 0, :-1])
    assert torch.equal(shifted[:, 2, :-1], x[:, 2, 1:])
    assert torch.equal(shifted[:, 4:], x[:, 4:])


def test_half_abs_is_pair_sorting_in_a_turned_basis():
    a, b = torch.randn(2, 50, 3, dtype=torch.float64)
    turned = torch.cat([a - b, a + b], 1) / 2**0.5
    difference, total = HalfAbs()(turned).chunk(2, 1)
    torch.testing.assert_close((total + difference) / 2**0.5, torch.maximum(a, b))
    torch.testing.assert_close((total - difference) / 2**0.5, torch.minimum(a, b))


@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (20, 7), (9, 1)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])
def test_cayley_gives_orthonormal_columns(shape, scale):
    torch.manual_seed(0)
    free = scale * torch.randn(shape, dtype=torch.float64)
    found = cayley(free)
    assert float((found.T @ found - torch.eye(shape[1])).abs().max()) <= 1e-10
    skew = free[: shape[1]] - free[: shape[1]].T + free[shape[1] :].T @ free[shape[1] :]
    inverse = torch.linalg.inv(torch.eye(shape[1]) + skew)
    expected = torch.cat([(torch.eye(shape[1]) - skew) @ inverse, -2 * free[shape[1] :] @ inverse])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["orthogonal square", "orthogonal wide", "orthogonal tall"])
def test_orthogonal_weights_are_semi_orthogonal_in_float32(name):
    layer, _ = layer_and_points(name, 1.0)
    (matrix,) = layer.effective()
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    assert float((small @ small.T - torch.eye(len(small))).abs().max()) <= 1e-5
    layer.train()
    matrix = layer.effective()[0].detach()  # what training computes with, in float32 throughout
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    assert float((small @ small.T - torch.eye(len(small))).abs().max()) <= 1e-4


@pytest.mark.parametrize("off", [0.0, 1e-7, 1e-3, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (40, 40), (200, 3), (512, 512)])
def test_the_norm_bound_is_above_the_norm_of_any_matrix_and_close_near_orthogonal_ones(shape, off):
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(max(shape), min(shape), dtype=torch.float64)).Q
    matrix = (basis if shape[0] >= shape[1] else basis.T) + off * torch.randn(shape, dtype=torch.float64) / 8
    norm = float(np.linalg.norm(matrix.numpy(), 2))
    bound = orthogonal_norm_bound(matrix)
    assert norm * (1 - 1e-14) <= bound
    if off <= 1e-3:
        away = float(np.abs(np.linalg.svd(matrix.numpy(), compute_uv=False) - 1).max())
        assert bound - 1 <= 4 * away + 1e-10
    assert orthogonal_norm_bound(matrix * torch.inf) == float("inf")


def test_sll_against_the_formula_with_loops():
    layer, points = layer_and_points("sll dense", 0.7)
    weight = layer.weight[:, :, 0, 0].detach().double().numpy()
    q, bias = layer.log_q.detach().double().exp().numpy(), layer.bias.detach().double().numpy()
    gram = weight @ weight.T
    diagonal = [sum(abs(gram[i, j]) * q[j] / q[i] for j in range(len(q))) for i in range(len(q))]
    for x in points.double().numpy():
        hidden = np.maximum(weight @ x + bias, 0) / diagonal
        expected = x - 2 * weight.T @ hidden
        found = layer(torch.tensor(x, dtype=torch.float32).unsqueeze(0))[0].detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_sll_whose_diagonal_is_too_small_is_not_given_one_as_bound():
    """The bound is read from the tensors, not from the construction: halve T and it rises above the true norm."""
    layer, points = layer_and_points("sll convolution", 0.5)
    constrain = layer.constrain
    layer.constrain = lambda *free: (constrain(*free)[0], 8 * constrain(*free)[1], constrain(*free)[2])
    layer.eval()
    norm = max(np.linalg.norm(jacobian(layer, x), 2) for x in points)
    assert 1.05 < norm <= layer.lipschitz_bound((4, 5, 6))


def test_sll_refuses_even_kernels():
    with pytest.raises(ValueError, match="kernel must be 0"):
        SLL(4, 4, kernel=2)


@pytest.mark.parametrize("name", ["orthogonal square", "sll convolution"])
def test_frozen_tensors_follow_every_change_of_the_parameters(name):
    layer, points = layer_and_points(name, 1.0)
    before = layer(points)
    assert layer.effective()[0] is layer.effective()[0]
    assert torch.equal(layer(points), before)
    other, _ = layer_and_points(name, 1.0, seed=1)

    optimiser = torch.optim.SGD(layer.parameters(), lr=0.5)
    layer.train()
    layer(points).square().sum().backward()
    layer.training = False  # as helpers that restore the mode do, without `eval()`
    assert torch.equal(layer(points), before)
    optimiser.step()
    stepped = layer(points)
    fresh = copy.deepcopy(layer).eval()(points)
    assert torch.equal(stepped, fresh)
    assert not torch.equal(stepped, before)

    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(points), other(points))
    layer.double()
    torch.testing.assert_close(layer(points.double()).float(), other(points), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["orthogonal tall", "sll dense"])
def test_eval_mode_agrees_with_train_mode_and_the_bound_leaves_no_trace(name):
    layer, points = layer_and_points(name, 1.0)
    expected = layer(points)
    layer.train()
    torch.testing.assert_close(layer(points), expected, rtol=1e-4, atol=1e-5)
    layer.lipschitz_bound(tuple(points.shape))
    assert layer.training
    layer(points).sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in layer.parameters())
    with torch.inference_mode():
        found = layer.eval()(points)
    assert torch.equal(found, expected)
    x = points.clone().requires_grad_()
    layer(x).sum().backward()  # what inference mode froze serves an attack's gradient too
    assert bool(torch.isfinite(x.grad).all())
