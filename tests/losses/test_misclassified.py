"""MART's terms against loops over probabilities in float64, closed forms, and logits where probabilities round to 1."""

import math

import pytest
import torch

from corral.losses import boosted_cross_entropy, log_complement, mart_terms, misclassified_kl


def draws(n=7, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean, adversarial = 3 * torch.randn(2, n, classes, generator=generator, dtype=torch.float64)
    return clean, adversarial, torch.randint(classes, (n,), generator=generator)


def probabilities(row):
    powers = [math.exp(value) for value in row.tolist()]
    return [power / sum(powers) for power in powers]


def slow(clean, adversarial, y):
    """The two terms of MART's Eq. 11, example by example, in probabilities."""
    boosted, consistency = [], []
    for i, label in enumerate(y.tolist()):
        p, q = probabilities(clean[i]), probabilities(adversarial[i])
        boosted.append(-math.log(q[label]) - math.log(1 - max(v for k, v in enumerate(q) if k != label)))
        consistency.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) * (1 - p[label]))
    return {"boosted_cross_entropy": boosted, "consistency": consistency}


@pytest.mark.parametrize("classes", [2, 5, 9])
def test_they_are_the_papers_by_loops(classes):
    clean, adversarial, y = draws(classes=classes)
    found = {name: values.tolist() for name, values in mart_terms(clean, adversarial, y).items()}
    expected = slow(clean, adversarial, y)
    assert found == {name: pytest.approx(values, rel=1e-9) for name, values in expected.items()}


def test_hand_values():
    # p = (1/2, 1/4, 1/4) of label 0: -log(1/2) - log(3/4); of label 1: -log(1/4) - log(1/2).
    logits = torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64).log().repeat(2, 1)
    found = boosted_cross_entropy(logits, torch.tensor([0, 1])).tolist()
    assert found == pytest.approx([math.log(8 / 3), math.log(8)], rel=1e-12)
    # With two classes the rival's complement is the label: twice the cross-entropy.
    two = torch.tensor([[0.3, -1.2]])
    assert float(boosted_cross_entropy(two, torch.tensor([1]))) == pytest.approx(2 * math.log(1 + math.exp(1.5)))
    # KL((3/4, 1/4) || (1/2, 1/2)) = log 2 - entropy, of which the misclassified share of label 1 is 3/4.
    clean, adversarial = torch.tensor([[3.0, 1.0]]).double().log(), torch.zeros(1, 2).double()
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(misclassified_kl(clean, adversarial, torch.tensor([1]))) == pytest.approx(0.75 * divergence)
    assert float(misclassified_kl(clean, clean, torch.tensor([1]))) == 0


def test_gradients_are_the_numerical_ones_also_through_the_factor():
    clean, adversarial, y = draws(n=3, classes=4, seed=1)
    clean.requires_grad_(True)
    adversarial.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a, b: tuple(mart_terms(a, b, y).values()), (clean, adversarial))


@pytest.mark.parametrize("margin", [50.0, 1e4, 1e30])
def test_where_a_wrong_class_is_certain_the_loss_grows_as_the_logits_do_and_pulls(margin):
    """1 - p rounds to 0 there: the released form stays below 9.3 and has no gradient."""
    logits = torch.tensor([[0.0, margin, 0.0]], requires_grad=True)
    value = boosted_cross_entropy(logits, torch.tensor([0]))
    # -log p_y is the margin, and -log(1 - p_1) = margin - log 2.
    assert float(value.detach()) == pytest.approx(2 * margin - math.log(2), rel=1e-6)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[-1.5, 2.0, -0.5]]))
    released = torch.log(1.0001 - logits.softmax(1)[:, 1] + 1e-12)
    assert float(-released.detach()) < 9.3
    assert float(torch.autograd.grad(released.sum(), logits)[0].abs().max()) < 1e-12


@pytest.mark.parametrize("scale", [1e6, 1e18, 1e30])
def test_huge_logits_stay_finite(scale):
    clean, adversarial, y = draws(n=40)
    clean, adversarial = (value.float().mul(scale).requires_grad_() for value in (clean, adversarial))
    for name, values in mart_terms(clean, adversarial, y).items():
        assert torch.isfinite(values).all(), name
        assert (values >= 0).all(), name
        for gradient in torch.autograd.grad(values.sum(), (clean, adversarial), allow_unused=True):
            assert gradient is None or torch.isfinite(gradient).all(), name


def test_a_complement_keeps_its_digits_on_both_sides():
    logits = torch.tensor([[0.0, 60.0], [0.0, 60.0]])
    assert log_complement(logits, torch.tensor([1, 0])).tolist() == pytest.approx([-60.0, -8.7565e-27], abs=1e-6)


def test_it_is_float32_under_autocast():
    clean, adversarial, y = draws()
    clean, adversarial = clean.float(), adversarial.float()
    expected = mart_terms(clean, adversarial, y)
    with torch.autocast("cpu", torch.bfloat16):
        found = mart_terms(clean, adversarial, y)
    for name, values in found.items():
        assert torch.equal(values, expected[name])
