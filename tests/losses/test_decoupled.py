"""IKL's terms against all pairs of classes by loops, and the theorem that DKL has the gradient of KL."""

import pytest
import torch

from corral.losses import ikl_terms, kl, pairwise_mse


def draws(n=6, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean, adversarial, weights = torch.randn(3, n, classes, generator=generator, dtype=torch.float64)
    return 3 * clean, 3 * adversarial, weights.softmax(1)


def slow(clean, adversarial, weights):
    """(1 / 4) sum over all pairs of classes, example by example."""
    found = []
    for o, other, w in zip(clean.tolist(), adversarial.tolist(), weights.tolist(), strict=True):
        pairs = [(j, k) for j in range(len(o)) for k in range(len(o))]
        found.append(sum(w[j] * w[k] * ((o[j] - o[k]) - (other[j] - other[k])) ** 2 for j, k in pairs) / 4)
    return found


@pytest.mark.parametrize("classes", [1, 2, 5, 11])
@pytest.mark.parametrize("total", [1.0, 0.3])
def test_the_closed_form_is_the_sum_over_all_pairs(classes, total):
    clean, adversarial, weights = draws(classes=classes)
    found = pairwise_mse(clean, adversarial, total * weights).tolist()
    assert found == pytest.approx(slow(clean, adversarial, total * weights), rel=1e-9, abs=1e-12)


def test_hand_values():
    # d = (2, 0) with weights (1/4, 3/4): variance 4 × 3/16, of which half counts.
    clean, adversarial = torch.tensor([[5.0, 1.0]]), torch.tensor([[3.0, 1.0]])
    weights = torch.tensor([[0.25, 0.75]])
    assert float(pairwise_mse(clean, adversarial, weights)) == pytest.approx(0.375)
    # Shifts of an image's logits mean nothing; a class of weight 0 does not count.
    assert float(pairwise_mse(clean + 7, adversarial - 9, weights)) == pytest.approx(0.375)
    assert float(pairwise_mse(clean, adversarial, torch.tensor([[1.0, 0.0]]))) == 0


def test_dkl_has_the_gradient_of_the_kl_divergence():
    """Theorem 1: its weights are the clean image's probabilities, and the first term moves the clean logits alone."""
    clean, adversarial, _ = (value.requires_grad_() for value in draws(seed=2))
    weights = clean.softmax(1)
    first = ikl_terms(clean, adversarial.detach(), weights)["pairwise_mse"]
    second = ikl_terms(clean, adversarial, weights)["consistency"]
    found = torch.autograd.grad((first + second).sum(), (clean, adversarial))
    expected = torch.autograd.grad(kl(clean, adversarial).sum(), (clean, adversarial))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_which_sides_have_gradients():
    clean, adversarial, weights = (value.requires_grad_() for value in draws())
    terms = ikl_terms(clean, adversarial, weights)
    moved = torch.autograd.grad(terms["pairwise_mse"].sum(), (clean, adversarial), retain_graph=True)
    torch.testing.assert_close(moved[0], -moved[1])
    assert bool((moved[0] != 0).any())
    (only,) = torch.autograd.grad(terms["consistency"].sum(), adversarial, retain_graph=True)
    assert bool((only != 0).any())
    one, two = torch.autograd.grad(sum(terms.values()).sum(), (clean, weights), allow_unused=True)
    torch.testing.assert_close(one, moved[0])
    assert two is None


def test_gradients_are_the_numerical_ones_and_it_is_float32_under_autocast():
    clean, adversarial, weights = (value.requires_grad_() for value in draws(n=3))
    assert torch.autograd.gradcheck(pairwise_mse, (clean, adversarial, weights))
    narrow = [value.detach().float() for value in (clean, adversarial, weights)]
    expected = pairwise_mse(*narrow)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pairwise_mse(*narrow), expected)


def test_a_small_difference_of_large_logits_keeps_its_digits():
    clean = torch.tensor([[3000.0, 1000.0, 2000.0]])
    adversarial = clean + torch.tensor([[0.5, 0.25, 0.0]])
    weights = torch.full((1, 3), 1 / 3)
    assert float(pairwise_mse(clean, adversarial, weights)) == pytest.approx(0.125**2 / 3 * 4, rel=1e-5)
