"""Consistency losses against loops and torch's own, their gradients, bounds, and huge logits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from corral.losses import kl, mse, soft_cross_entropy

ALL = {"kl": kl, "soft_cross_entropy": soft_cross_entropy, "mse": mse}


def logits(n, classes, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(2, n, classes, generator=generator, dtype=dtype)).unbind()


def softmax(row):
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 6), classes=st.integers(1, 7), seed=st.integers(0, 2**20))
def test_they_are_the_double_loops(n, classes, seed):
    clean, adversarial = logits(n, classes, seed)
    found = {name: function(clean, adversarial).tolist() for name, function in ALL.items()}
    for i in range(n):
        p, q = softmax(clean[i].tolist()), softmax(adversarial[i].tolist())
        pairs = list(zip(p, q, strict=True))
        assert found["kl"][i] == pytest.approx(sum(a * math.log(a / b) for a, b in pairs), rel=1e-9, abs=1e-12)
        assert found["soft_cross_entropy"][i] == pytest.approx(-sum(a * math.log(b) for a, b in pairs), abs=1e-12)
        assert found["mse"][i] == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / classes, abs=1e-12)


def test_they_agree_with_torch():
    clean, adversarial = logits(8, 5, 0)
    p, log_q = clean.softmax(1), adversarial.log_softmax(1)
    torch.testing.assert_close(kl(clean, adversarial), functional.kl_div(log_q, p, reduction="none").sum(1))
    expected = functional.cross_entropy(adversarial, p, reduction="none")
    torch.testing.assert_close(soft_cross_entropy(clean, adversarial), expected)
    torch.testing.assert_close(mse(clean, adversarial).mean(), functional.mse_loss(p, adversarial.softmax(1)))


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
def test_gradients_are_the_numerical_ones(loss):
    clean, adversarial = (value.clone().requires_grad_() for value in logits(3, 4, 1))
    assert torch.autograd.gradcheck(loss, (clean, adversarial))


@settings(max_examples=30, deadline=None)
@given(classes=st.integers(2, 6), seed=st.integers(0, 2**20), shift=st.floats(-50, 50))
def test_identities(classes, seed, shift):
    clean, adversarial = logits(4, classes, seed)
    zero = torch.zeros(4, dtype=torch.float64)
    torch.testing.assert_close(kl(clean, clean + shift), zero)
    torch.testing.assert_close(mse(clean, clean + shift), zero)
    assert (kl(clean, adversarial) >= -1e-12).all()
    assert (mse(clean, adversarial) <= 2 / classes).all()
    entropy = soft_cross_entropy(clean, clean)
    torch.testing.assert_close(soft_cross_entropy(clean, adversarial), kl(clean, adversarial) + entropy)


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
@pytest.mark.parametrize("scale", [1e6, 1e18, 1e30])
def test_huge_logits_stay_finite(loss, scale):
    clean, adversarial = (value.mul(scale).requires_grad_() for value in logits(6, 5, 2, torch.float32))
    values = loss(clean, adversarial)
    values.sum().backward()
    assert torch.isfinite(values).all()
    assert torch.isfinite(clean.grad).all()
    assert torch.isfinite(adversarial.grad).all()


def test_certain_and_opposite_answers_have_closed_forms():
    clean, adversarial = torch.tensor([[1e6, 0.0]]), torch.tensor([[0.0, 1e6]])
    assert kl(clean, adversarial).tolist() == [1e6]
    assert soft_cross_entropy(clean, adversarial).tolist() == [1e6]
    assert mse(clean, adversarial).tolist() == [1.0]
