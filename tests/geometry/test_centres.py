"""Max-Mahalanobis centres are a regular simplex; packed ones reach the known best packings."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.geometry import largest_cosine, max_mahalanobis_centres, packed_centres


@given(classes=st.integers(2, 120), extra=st.integers(0, 5), length=st.floats(0.1, 100))
@settings(deadline=None)
def test_every_pair_has_the_simplex_cosine_and_all_lengths_are_equal(classes, extra, length):
    centres = max_mahalanobis_centres(classes, classes - 1 + extra, length=length).double()
    unit = centres / centres.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T)[~torch.eye(classes, dtype=torch.bool)]
    torch.testing.assert_close(cosines, torch.full_like(cosines, -1 / (classes - 1)), rtol=0, atol=1e-6)
    torch.testing.assert_close(centres.norm(dim=1), torch.full((classes,), length).double(), rtol=1e-6, atol=0)


def test_they_are_those_of_the_recursion_of_pang_et_al():
    """Algorithm 1 of Pang et al. 2018, as printed: coordinate by coordinate, from the vertices before."""
    count = 7
    mu = [[0.0] * (count - 1) for _ in range(count)]
    mu[0][0] = 1.0
    for i in range(1, count):
        for j in range(min(i, count - 1)):
            dot = sum(mu[i][k] * mu[j][k] for k in range(j))
            mu[i][j] = -(1 + dot * (count - 1)) / (mu[j][j] * (count - 1))
        if i < count - 1:
            mu[i][i] = math.sqrt(1 - sum(value**2 for value in mu[i]))
    torch.testing.assert_close(max_mahalanobis_centres(count, count - 1), torch.tensor(mu), rtol=0, atol=1e-6)


def test_they_are_the_same_every_time():
    assert torch.equal(max_mahalanobis_centres(10, 64), max_mahalanobis_centres(10, 64))
    assert torch.equal(packed_centres(6, 3), packed_centres(6, 3))


def test_too_few_dimensions_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="10 classes need at least 9 dimensions for equal angles, found 8"):
        max_mahalanobis_centres(10, 8)


@pytest.mark.parametrize(
    ("classes", "dimension", "cosine"),
    [
        (5, 2, math.cos(2 * math.pi / 5)),  # a regular pentagon
        (9, 2, math.cos(2 * math.pi / 9)),
        (6, 3, 0.0),  # the octahedron
        (12, 3, 1 / math.sqrt(5)),  # the icosahedron
        (8, 4, 0.0),  # the cross-polytope
    ],
)
def test_packed_centres_reach_the_known_optimum(classes, dimension, cosine):
    centres = packed_centres(classes, dimension, length=3.0)
    assert float(largest_cosine(centres)) == pytest.approx(cosine, abs=2e-3)
    torch.testing.assert_close(centres.norm(dim=1), torch.full((classes,), 3.0))


def test_packed_centres_are_the_simplex_where_it_fits():
    assert torch.equal(packed_centres(4, 3), max_mahalanobis_centres(4, 3))


@pytest.mark.parametrize(
    ("classes", "dimension", "length"), [(1, 3, 1.0), (3, 0, 1.0), (3, 3, 0.0), (3, 3, math.inf), (3, 3, math.nan)]
)
def test_impossible_numbers_are_refused(classes, dimension, length):
    with pytest.raises(ValueError, match="found"):
        max_mahalanobis_centres(classes, dimension, length=length)


def test_three_classes_on_a_line_are_refused():
    with pytest.raises(ValueError, match="one dimension has two directions, not 3"):
        packed_centres(3, 1)
