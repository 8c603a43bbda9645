"""The nuclear norm against eigenvalues and closed forms, and its gradient where singular values repeat or are 0."""

import math

import pytest
import torch

from corral.losses import nuclear_norm


def rotation(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


def of_singular_values(values, rows, seed=0):
    """A matrix of as many columns as values, in a random position."""
    left = rotation(rows, seed)[:, : len(values)]
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ rotation(len(values), seed + 1)


@pytest.mark.parametrize(("rows", "columns"), [(9, 4), (4, 9), (5, 5), (1, 6), (6, 1)])
def test_it_is_the_sum_of_the_roots_of_the_gram_matrixs_eigenvalues(rows, columns):
    residuals = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gram = residuals @ residuals.T if rows < columns else residuals.T @ residuals
    expected = sum(math.sqrt(value) for value in torch.linalg.eigvalsh(gram).tolist())
    assert float(nuclear_norm(residuals)) == pytest.approx(expected, rel=1e-9)


def test_closed_forms():
    assert float(nuclear_norm(torch.tensor([[3.0, 4.0]]))) == pytest.approx(5)  # one image: the length of its residual
    assert float(nuclear_norm(torch.diag(torch.tensor([-2.0, 1.0, 0.0])))) == pytest.approx(3)
    # Images that all move alike have rank 1: sqrt(n) lengths; those that move across each other add up.
    alike = torch.tensor([[3.0, 4.0]]).repeat(9, 1)
    assert float(nuclear_norm(alike)) == pytest.approx(15)
    residuals = torch.randn(8, 5, generator=torch.Generator().manual_seed(2))
    lengths = residuals.norm(dim=1)
    assert float(residuals.norm()) <= float(nuclear_norm(residuals)) <= float(lengths.sum())


@pytest.mark.parametrize(
    "values", [[3.0, 2.0, 1.0], [2.0, 2.0, 2.0], [2.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
)
@pytest.mark.parametrize("rows", [3, 8])
def test_the_gradient_is_a_finite_subgradient_for_repeated_and_zero_singular_values(values, rows):
    residuals = of_singular_values(values, rows).float().requires_grad_()
    value = nuclear_norm(residuals)
    (gradient,) = torch.autograd.grad(value, residuals)
    assert torch.isfinite(gradient).all()
    # The subgradients are those of spectral norm at most 1 whose product with the matrix is the norm.
    assert float(torch.linalg.matrix_norm(gradient, 2)) <= 1 + 1e-5
    assert float((gradient * residuals.detach()).sum()) == pytest.approx(sum(values), abs=1e-5)
    if values[2] > 0:
        left, _, right = torch.linalg.svd(residuals.detach(), full_matrices=False)
        torch.testing.assert_close(gradient, left @ right, rtol=0, atol=1e-5)


def test_the_gradient_of_a_zero_matrix_and_of_equal_rows_is_finite():
    for residuals in (torch.zeros(6, 4), torch.ones(6, 4), torch.zeros(1, 4)):
        moved = residuals.requires_grad_()
        nuclear_norm(moved).backward()
        assert torch.isfinite(moved.grad).all()


def test_it_is_float32_under_bfloat16_autocast():
    residuals = torch.randn(8, 5, generator=torch.Generator().manual_seed(3))
    expected = nuclear_norm(residuals)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nuclear_norm(residuals), expected)
        narrow = nuclear_norm(residuals.bfloat16())
    assert narrow.dtype == torch.float32
    assert float(narrow) == pytest.approx(float(expected), rel=1e-2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_give_no_number_instead_of_an_error_of_the_decomposition(bad):
    residuals = torch.ones(4, 3)
    residuals[2, 1] = bad
    assert math.isnan(float(nuclear_norm(residuals)))
