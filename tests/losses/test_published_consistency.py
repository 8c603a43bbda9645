"""The released code's consistency terms against loops, torch's own functions, and what they cannot see."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from corral.losses import features_mse, score_cross_entropy, score_kl, score_mse, score_probabilities, unlogged_kl

SCORES = {"cross_entropy": score_cross_entropy, "kl": score_kl, "mse": score_mse}


def scores(n, classes, seed):
    """Clean and adversarial scores in [0, 2], some exactly 0 as outside the nearest clusters."""
    generator = torch.Generator().manual_seed(seed)
    values = 2 * torch.rand(2, n, classes, generator=generator, dtype=torch.float64)
    values[:, :, -1] = 0
    return values.unbind()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 5), classes=st.integers(2, 7), seed=st.integers(0, 2**20))
def test_they_are_the_double_loops(n, classes, seed):
    clean, adversarial = scores(n, classes, seed)
    found = {name: function(clean, adversarial).tolist() for name, function in SCORES.items()}
    unlogged, squares = unlogged_kl(clean, adversarial).tolist(), features_mse(clean, adversarial).tolist()
    for i in range(n):
        s, t = clean[i].tolist(), adversarial[i].tolist()
        p, moved = [value / sum(s) for value in s], [value / sum(t) for value in t]
        q = [math.exp(value) / sum(map(math.exp, t)) for value in t]
        cross = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
        assert found["cross_entropy"][i] == pytest.approx(cross, rel=1e-12)
        assert found["kl"][i] == pytest.approx(cross + sum(a * math.log(a) for a in p if a > 0), abs=1e-12)
        assert found["mse"][i] == pytest.approx(sum((a - b) ** 2 for a, b in zip(p, moved, strict=True)) / classes)
        own = [math.exp(value) / sum(map(math.exp, s)) for value in s]
        value = sum(a * (math.log(a) - b) for a, b in zip(own, q, strict=True)) / classes
        assert unlogged[i] == pytest.approx(value, rel=1e-12)
        assert value <= 0
        assert squares[i] == pytest.approx(sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / classes, rel=1e-12)


def test_they_agree_with_torch():
    clean, adversarial = scores(8, 5, 0)
    p = clean / clean.sum(1, keepdim=True)
    expected = functional.kl_div(adversarial.log_softmax(1), p, reduction="none").sum(1)
    torch.testing.assert_close(score_kl(clean, adversarial), expected)
    torch.testing.assert_close(
        score_cross_entropy(clean, adversarial), functional.cross_entropy(adversarial, p, reduction="none")
    )
    # The call of the released code: probabilities where kl_div takes their logarithms, the mean over all elements.
    expected = functional.kl_div(adversarial.softmax(1), clean.softmax(1), reduction="none").mean()
    torch.testing.assert_close(unlogged_kl(clean, adversarial).mean(), expected)
    torch.testing.assert_close(features_mse(clean, adversarial).mean(), functional.mse_loss(clean, adversarial))


@pytest.mark.parametrize("loss", [*SCORES.values(), unlogged_kl, features_mse])
def test_gradients_are_the_numerical_ones(loss):
    clean, adversarial = ((value + 0.1).clone().requires_grad_() for value in scores(3, 4, 1))
    assert torch.autograd.gradcheck(loss, (clean, adversarial))


@pytest.mark.parametrize("loss", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_that_have_underflowed_give_no_nan_and_the_clean_side_no_gradient(loss, dtype):
    clean = torch.zeros(2, 4, dtype=dtype, requires_grad=True)
    adversarial = torch.tensor([[0, 0, 0, 0], [0, 1e-30, 0, 2]], dtype=dtype, requires_grad=True)
    assert score_probabilities(clean).tolist() == [[0.0] * 4] * 2
    values = loss(clean, adversarial)
    (gradient,) = torch.autograd.grad(values.sum(), adversarial)
    assert bool(torch.isfinite(values).all())
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient[0].abs().max()) == 0 or loss is score_mse


def test_scores_as_logits_can_hardly_tell_two_answers_apart():
    """The surest answer possible, K = 2 against 0 elsewhere, leaves q at 45% and costs almost what a wrong one does."""
    sure, wrong = torch.tensor([[2.0] + [0.0] * 9]), torch.tensor([[0.0] * 9 + [2.0]])
    right = float(score_cross_entropy(sure, sure))
    assert math.exp(-right) == pytest.approx(math.e**2 / (math.e**2 + 9), rel=1e-6)
    assert float(score_cross_entropy(sure, wrong)) - right == pytest.approx(2.0, rel=1e-6)
