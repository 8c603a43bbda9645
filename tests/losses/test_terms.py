"""A loss as a weighted sum: its value, its gradients, and what it refuses."""

import pytest
import torch

from corral.losses import weighted


def test_it_is_the_sum_of_each_examples_terms_times_their_weights():
    terms = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0, -20.0])}
    assert weighted(terms, {"a": 2.0, "b": 0.5, "absent": 9.0}).tolist() == [7.0, -6.0]


def test_a_term_of_weight_0_plays_no_part_even_where_it_is_not_a_number():
    x = torch.ones(2, requires_grad=True)
    total = weighted({"a": 3 * x, "b": (x - 1).sqrt() / 0}, {"a": 1.0, "b": 0.0})
    assert total.tolist() == [3.0, 3.0]
    assert torch.autograd.grad(total.sum(), x)[0].tolist() == [3.0, 3.0]


def test_a_term_without_a_weight_and_a_loss_of_nothing_are_refused():
    with pytest.raises(KeyError):
        weighted({"a": torch.ones(1)}, {})
    with pytest.raises(ValueError, match="a term of a weight other than 0, found a"):
        weighted({"a": torch.ones(1)}, {"a": 0.0})
