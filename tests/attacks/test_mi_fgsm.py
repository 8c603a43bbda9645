"""MI-FGSM against a slow twin, on a linear model, and by its equations' own invariants."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from corral.attacks.mi_fgsm import mi_fgsm
from corral.attacks.pgd import pgd_outcome
from corral.errors import CorralError


def network(classes=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, classes)).double()


def images(n, seed=0):
    return torch.rand(n, 1, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def twin(model, x, y, eps, norm, steps, momentum):
    """Algorithm 1 of the paper, image by image, as it is printed."""
    found = []
    for image, label in zip(x, y, strict=True):
        g, point = torch.zeros_like(image), image.clone()
        for _ in range(steps):
            point = point.detach().requires_grad_(True)
            loss = F.cross_entropy(model(point[None]), label[None])
            (gradient,) = torch.autograd.grad(loss, point)
            g = momentum * g + gradient / gradient.abs().sum()
            if norm == "Linf":
                point = (point + eps / steps * g.sign()).detach()
                point = torch.maximum(torch.minimum(point, image + eps), image - eps)
            else:
                point = (point + eps / steps * g / g.square().sum().sqrt()).detach()
                away = point - image
                point = image + away * min(1.0, eps / float(away.norm()))
            point = point.clamp(0, 1)
        found.append(point)
    return torch.stack(found)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
def test_it_is_the_published_algorithm_image_by_image(norm, momentum):
    model, x = network(), images(12)
    y = model(x).argmax(1)
    found = mi_fgsm(model, x, y, eps=0.2, norm=norm, steps=7, momentum=momentum)
    torch.testing.assert_close(found, twin(model, x, y, 0.2, norm, 7, momentum), atol=1e-10, rtol=0)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_a_linear_model_falls_exactly_where_the_boundary_is_within_eps(norm, momentum):
    """Two classes and no wall in the way: the gradient's direction never turns, so ten steps go as far as one."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    model[1].weight.data = torch.randn(2, 12, generator=generator, dtype=torch.float64)
    normal = model[1].weight[0] - model[1].weight[1]
    dual = 1 if norm == "Linf" else 2
    x = 0.4 + 0.2 * images(60, 2)
    model[1].bias.data = torch.stack([-(x.flatten(1).mean(0) @ normal), torch.zeros(())]).detach().double()
    with torch.no_grad():
        logits = model(x)
        y = logits.argmax(1)
        distances = (logits[:, 0] - logits[:, 1]).abs() / torch.linalg.vector_norm(normal, dual)
    eps = float(distances.median())
    clear = (distances / eps - 1).abs() > 1e-6
    outcome = mi_fgsm.outcome(model, x, y, eps=eps, norm=norm, momentum=momentum)
    assert 20 < int(outcome.broken.sum()) < 40
    assert torch.equal(outcome.broken[clear], (distances < eps)[clear])
    assert outcome.step[outcome.broken].unique().tolist() == [10]


def test_without_momentum_it_is_pgd_from_the_image_to_its_last_step():
    model, x = network(), images(20)
    y = model(x).argmax(1)
    found = mi_fgsm(model, x, y, eps=0.1, steps=5, momentum=0.0)
    same = pgd_outcome(model, x, y, eps=0.1, steps=5, step_size=0.02, random_start=False, keep="max_loss_restart")
    torch.testing.assert_close(found, same.x_adv, atol=1e-12, rtol=0)


def test_the_scale_of_the_logits_gradient_does_not_matter():
    """Each gradient is divided by its l1 norm: images whose losses are steep and flat accumulate alike."""
    model, x = network(2), images(20)
    y = model(x).argmax(1)

    class Far(nn.Module):
        def forward(self, x):
            return model(x) * 0.01

    one, other = (mi_fgsm(m, x, y, eps=0.1, steps=4) for m in (model, Far()))
    torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_what_it_cost_is_counted_and_what_was_wrong_stays_as_it_was():
    model, x = network(), images(10)
    y = model(x).argmax(1)
    y[:3] = (y[:3] + 1) % 3
    outcome = mi_fgsm.outcome(model, x, y, eps=0.3, steps=6)
    # Six steps, then the clean images and the last points: success is measured anew.
    assert (outcome.forwards, outcome.backwards) == (10 * 8, 10 * 6)
    assert torch.equal(outcome.x_adv[:3], x[:3])
    assert outcome.step[:3].tolist() == [0, 0, 0]
    with torch.no_grad():
        assert torch.equal(model(outcome.x_adv).argmax(1) != y, outcome.broken)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "^steps must be >= 1, found 0$"),
        ({"norm": "L1"}, "norm 'L1' is not one of Linf, L2"),
        ({"eps": 8}, "did you mean 8/255"),
    ],
)
def test_impossible_arguments_are_one_line(changes, words):
    with pytest.raises(ValueError, match=words):
        mi_fgsm(network(), images(2), torch.tensor([0, 1]), **{"eps": 0.1, **changes})


def test_a_model_without_numbers_is_no_success():
    class Broken(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] / 0

    with pytest.raises(CorralError, match="not finite"):
        mi_fgsm(Broken(), images(2), torch.tensor([0, 1]), eps=0.1)
