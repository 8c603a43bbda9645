"""The model under attack: what counts as finite."""

import math

import pytest
import torch

from corral.attacks.wrapped_model import all_finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_found(bad):
    values = torch.zeros(3, 5)
    assert all_finite(values)
    values[1, 2] = bad
    assert not all_finite(values)


def test_infinities_that_cancel_are_found_and_a_sum_that_overflows_is_finite():
    assert not all_finite(torch.tensor([math.inf, -math.inf]))
    assert all_finite(torch.full((4,), 3e38))
    assert all_finite(torch.zeros(0, 10))
