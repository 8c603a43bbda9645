"""PGD with a radius for each image: against the exact answer of a linear model, and PGD of one radius."""

import pytest
import torch
from tests.oracles import linear_distances
from torch import nn

from corral.attacks.within import pgd_within


@pytest.fixture
def linear():
    """A linear model of 3 classes on 12 pixels, images in the middle of the box, and the exact l2 distances."""
    generator = torch.Generator().manual_seed(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 12, generator=generator))
        model[1].bias.zero_()
    x = 0.5 + 0.02 * torch.randn(40, 3, 2, 2, generator=generator)
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(1)
    exact = linear_distances(model[1].weight, logits, y)
    return model, x, y, exact


def test_just_past_the_exact_distance_every_image_falls_and_just_within_none(linear):
    model, x, y, exact = linear
    inside = pgd_within(model, x, y, exact * (1 - 1e-4))
    assert not bool(inside.broken.any())
    assert bool((inside.step == -1).all())
    outside = pgd_within(model, x, y, exact * 1.05)
    assert bool(outside.broken.all())
    moved = (outside.x_adv - x).flatten(1).norm(dim=1).double()
    assert bool((moved <= exact * 1.05 * (1 + 1e-5)).all())
    with torch.no_grad():
        assert bool((model(outside.x_adv).argmax(1) != y).all())


def test_each_image_has_its_own_radius_and_its_own_draws(linear):
    model, x, y, exact = linear
    radii = exact * torch.linspace(0.5, 1.5, len(x))
    whole = pgd_within(model, x, y, radii, seed=5)
    assert torch.equal(whole.broken, radii > exact)
    for rows in torch.split(torch.randperm(len(x), generator=torch.Generator().manual_seed(0)), 7):
        part = pgd_within(model, x[rows], y[rows], radii[rows], seed=5)
        assert torch.equal(part.broken, whole.broken[rows])
        torch.testing.assert_close(part.x_adv, whole.x_adv[rows], rtol=0, atol=1e-6)


def test_what_is_wrong_as_it_is_counts_as_broken_and_a_radius_of_0_moves_nothing(linear):
    model, x, y, exact = linear
    wrong = (y + 1) % 3
    found = pgd_within(model, x, wrong, exact, steps=2, restarts=1)
    assert bool(found.broken.all() & (found.step == 0).all())
    assert torch.equal(found.x_adv, x)
    still = pgd_within(model, x, y, torch.zeros(len(x)))
    assert torch.equal(still.x_adv, x)
    assert (still.forwards, still.backwards) == (len(x), 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"radii": torch.ones(3)}, r"radii must be \(40,\) finite"),
        ({"radii": -torch.ones(40)}, "finite numbers >= 0"),
        ({"steps": 0}, "steps must be >= 1, found 0"),
        ({"x": 2 * torch.ones(40, 3, 2, 2)}, "0, 1"),
        ({"y": torch.full((40,), 3)}, "label"),
    ],
)
def test_impossible_arguments_are_one_line(linear, change, words):
    model, x, y, _ = linear
    arguments = {"x": x, "y": y, "radii": torch.ones(40), "steps": 1, "restarts": 1} | change
    with pytest.raises(ValueError, match=words):
        pgd_within(model, **arguments)
