"""Conversions between norms, on the vectors that make them tight."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.certify import l2_to_l1, l2_to_linf, normalisation_constant
from corral.models.classifier import Normalisation


@given(values=st.lists(st.floats(-10, 10), min_size=1, max_size=40))
def test_a_move_within_the_converted_radius_is_within_the_l2_one(values):
    move = torch.tensor(values, dtype=torch.float64)
    radius = torch.tensor(math.hypot(*values), dtype=torch.float64)  # exact where squares are below the least number
    assert float(l2_to_linf(radius, len(values))) <= float(move.abs().max()) * (1 + 1e-12)
    assert float(l2_to_l1(radius)) <= float(move.abs().sum()) * (1 + 1e-12)


def test_both_are_tight():
    assert float(l2_to_linf(torch.tensor(1.0, dtype=torch.float64), 16)) == 0.25
    corner = torch.full((16,), 0.25, dtype=torch.float64)
    assert float(corner.norm()) == pytest.approx(1.0)
    assert float(l2_to_l1(torch.tensor(3.0))) == 3.0


def test_the_normalisation_s_constant_is_attained():
    layer = Normalisation([0.4, 0.5], [0.2, 0.25]).double()
    constant = normalisation_constant(layer.std)
    x, move = torch.rand(1, 2, 3, 3, dtype=torch.float64), torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    move[0, 0] = 1.0
    assert float((layer(x + move) - layer(x)).norm() / move.norm()) == pytest.approx(constant) == pytest.approx(5.0)


@pytest.mark.parametrize("std", [[0.0, 1.0], [-1.0], [math.nan], [math.inf], []])
def test_an_impossible_std_is_refused(std):
    with pytest.raises(ValueError, match="std must be positive and finite"):
        normalisation_constant(std)


def test_no_values_have_no_radius():
    with pytest.raises(ValueError, match="at least 1, found 0"):
        l2_to_linf(torch.ones(1), 0)
