"""The sign test against its own sum of binomials, and the rule that verdicts rest on."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.audit.diagnostics.findings import Comparison, binomial_tail, compare


@given(more=st.integers(0, 60), less=st.integers(0, 60))
def test_the_sign_test_is_the_tail_of_fair_coins(more, less):
    tosses = more + less
    tail = sum(math.comb(tosses, heads) for heads in range(more, tosses + 1)) / 2**tosses
    assert binomial_tail(more, tosses, 0.5) == pytest.approx(tail, rel=1e-9)


def test_six_images_may_be_chance_and_seven_may_not():
    assert not Comparison(6, 0, 200).beyond_chance
    assert Comparison(7, 0, 200).beyond_chance
    assert not Comparison(13, 3, 200).beyond_chance
    assert not Comparison(0, 50, 200).beyond_chance


def test_verdicts_weigh_chance_and_size():
    assert Comparison(7, 0, 100).verdict(0.05) == "masked"
    assert Comparison(7, 0, 1000).verdict(0.05) == "note"
    assert Comparison(30, 20, 100).verdict(0.05) == "ok"
    assert Comparison(0, 30, 100).verdict(0.05) == "ok"


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_comparing_counts_the_pairs(pairs):
    first, second = (torch.tensor([pair[side] for pair in pairs], dtype=torch.bool) for side in (0, 1))
    found = compare(first, second)
    assert found.only_challenger == sum(a and not b for a, b in pairs)
    assert found.only_reference == sum(b and not a for a, b in pairs)
    share = (sum(a for a, _ in pairs) - sum(b for _, b in pairs)) / max(len(pairs), 1)
    assert found.excess == pytest.approx(share)
