"""Each check on models that have its trouble, and only that, or none."""

import pytest
import torch
import torch.nn.functional as F
from tests.audit.diagnostics.models import After, Before, batch, reversed_gradient
from torch import nn

from corral.audit.diagnostics.gradients import gradient_underflow, random_directions, zero_gradients
from corral.audit.diagnostics.monotonicity import against_eps, against_restarts, against_steps, unbounded
from corral.audit.diagnostics.outputs import bounded_outputs, randomness, train_mode_layers
from corral.audit.diagnostics.stronger import black_box, one_step, other_objective
from corral.audit.diagnostics.subject import DiagnosedModel

EPS = 0.05


def subject(model, x, y, eps=EPS, norm="Linf"):
    return DiagnosedModel(model, x, y, eps=eps, norm=norm, seed=0)


def reading(check, *, after=None, before=None, eps=EPS):
    model, x, y = batch()
    if after is not None:
        model = After(model, after)
    if before is not None:
        model = Before(model, before)
    return check(subject(model, x, y, eps))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("eps", [0.02, 0.05, 0.1])
def test_shared_attack_is_exact_on_a_linear_model(norm, eps):
    model, x, y = batch()
    weight = model[1].weight[0] - model[1].weight[1]
    length = weight.abs().sum() if norm == "Linf" else weight.norm()
    distance = (model(x)[:, 0] - model(x)[:, 1]).abs() / length
    broken = subject(model, x, y, eps, norm).broken(eps=eps)
    assert not bool(broken[distance > eps].any())
    assert bool(broken[distance < 0.98 * eps].all())


@pytest.mark.parametrize(
    "check",
    [
        zero_gradients,
        gradient_underflow,
        bounded_outputs,
        randomness,
        train_mode_layers,
        one_step,
        black_box,
        other_objective,
        unbounded,
        against_eps,
        against_steps,
        against_restarts,
        random_directions,
    ],
)
def test_a_linear_model_has_no_trouble(check):
    found = reading(check)
    assert found.verdict == "ok", found.explanation
    assert found.value is not None
    assert found.remedy == ""


@pytest.mark.parametrize("cut", [torch.Tensor.detach, torch.round, lambda x: (x * 8).round() / 8])
def test_a_cut_path_has_only_zero_gradients(cut):
    found = reading(zero_gradients, before=cut)
    assert (found.value, found.verdict) == (1.0, "masked")
    assert "100.0%" in found.explanation
    assert reading(gradient_underflow, before=cut).verdict == "skipped"


def test_one_dead_image_is_a_note():
    model, x, y = batch()
    x[0] = 0.25
    y[0] = model(torch.full_like(x[:1], 0.25)).argmax()
    dead = Before(model, lambda x: torch.where((x < 0.3).flatten(1).all(1).view(-1, 1, 1, 1), x.detach(), x))
    found = zero_gradients(subject(dead, x, y, 0.01))
    assert found.verdict == "note"
    assert found.value == pytest.approx(1 / 60)


def test_a_gradient_that_is_no_number_is_told_from_a_zero_one():
    found = reading(zero_gradients, before=lambda x: x + 0 * (x - x).abs().sqrt())
    assert (found.value, found.verdict) == (1.0, "masked")
    assert "NaN" in found.explanation


def test_steep_outputs_underflow_where_their_margin_says():
    model, x, y = batch()
    steep = After(model, lambda outputs: 1000 * outputs)
    found = gradient_underflow(subject(steep, x, y, 1e-6))
    margins = (steep(x)[:, 0] - steep(x)[:, 1]).abs()
    # exp(-margin) times the steep weights, at most 10^4, against the smallest normal number, exp(-87.3).
    assert float((margins > 98).double().mean()) <= found.value <= float((margins > 86).double().mean())
    assert found.verdict == "masked"


@pytest.mark.parametrize(
    ("function", "verdict", "word"),
    [
        (lambda outputs: outputs.softmax(1), "masked", "probabilities"),
        (lambda outputs: outputs.sigmoid(), "masked", "scores"),
        (lambda outputs: F.normalize(outputs, dim=1), "note", "cosines"),
        (lambda outputs: outputs.log_softmax(1), "ok", "logits"),
        (lambda outputs: outputs / 100, "ok", "logits"),
    ],
)
def test_outputs_that_are_no_logits_are_named(function, verdict, word):
    found = reading(bounded_outputs, after=function)
    assert found.verdict == verdict, found.explanation
    assert word in found.explanation


def test_the_confidence_of_two_probabilities_has_a_closed_form():
    found = reading(bounded_outputs, after=lambda outputs: (1e4 * outputs).softmax(1))
    assert found.value == pytest.approx(torch.tensor([1.0, 0.0]).softmax(0)[0].item(), rel=1e-4)


def test_a_model_that_refuses_foreign_pixels_is_not_disturbed():
    def strict(x):
        if float(x.max()) > 1:
            raise ValueError("pixels must be in [0, 1]")
        return x / 1000

    assert reading(bounded_outputs, before=strict).verdict == "note"


class Stubborn(nn.Dropout):
    def train(self, mode=True):
        return super().train(True)


@pytest.mark.parametrize(
    ("layer", "training", "value", "verdict"),
    [
        (nn.BatchNorm2d(1), False, 0, "ok"),
        (nn.BatchNorm2d(1), True, 1, "note"),
        (nn.Dropout(0.1), True, 1, "note"),
        (nn.Dropout(0.0), True, 0, "ok"),
        (nn.BatchNorm2d(1, track_running_stats=False), False, 1, "masked"),
        (Stubborn(0.1), True, 1, "masked"),
    ],
)
def test_layers_in_train_mode_are_counted_as_handed_over(layer, training, value, verdict):
    model, x, y = batch()
    whole = nn.Sequential(layer, model).eval()
    layer.train(training)
    found = train_mode_layers(subject(whole, x, y))
    assert (found.value, found.verdict) == (value, verdict), found.explanation
    assert layer.training == (training or isinstance(layer, Stubborn))


def test_noise_in_the_answers_is_seen_and_rounding_is_not():
    noisy = reading(randomness, after=lambda outputs: outputs + 0.01 * torch.randn_like(outputs))
    assert noisy.verdict == "masked"
    rounding = reading(randomness, after=lambda outputs: outputs + 1e-7 * torch.randn_like(outputs))
    assert rounding.verdict == "ok"


def test_a_gradient_that_points_backwards_loses_to_everything_blind():
    for check in (black_box, random_directions):
        found = reading(check, before=reversed_gradient)
        assert found.verdict == "masked", found.explanation


@pytest.mark.parametrize(("classes", "verdict"), [(10, "masked"), (1, "ok")])
def test_more_than_guessing_at_any_eps_is_masked(classes, verdict):
    """One answer for every image: the attack must win at eps 1, but where there is only one class to guess."""
    _, x, _ = batch()
    constant = After(nn.Flatten(), lambda x: torch.eye(classes)[0] + 0 * x[:, :1])
    found = unbounded(subject(constant, x, torch.zeros(len(x), dtype=torch.long)))
    assert (found.value, found.verdict) == (1.0, verdict)


def test_a_saturated_softmax_loses_to_the_margin():
    found = reading(other_objective, after=lambda outputs: 3000 * outputs, eps=0.1)
    assert found.verdict == "masked", found.explanation
    assert found.value > 0.1


def test_a_slope_that_is_true_at_the_image_alone_loses_to_one_step():
    """One step of length eps follows it; many, from a random start, are led back."""
    model, x, y = batch()

    def trap(pixels):
        at_an_image = (pixels.unsqueeze(1) == x).flatten(2).all(2).any(1)
        return torch.where(at_an_image.view(-1, 1, 1, 1), pixels, reversed_gradient(pixels))

    found = one_step(subject(Before(model, trap), x, y, 0.1))
    assert found.verdict == "masked", found.explanation
    assert "40 steps do not" in found.explanation


def test_a_slope_that_turns_round_makes_the_curve_rise():
    """Within 1.1 eps of its image the slope is true, farther out reversed: PGD at two eps breaks less than at one."""
    model, x, y = batch()

    def turning(pixels):
        distance = (pixels.unsqueeze(1) - x).flatten(2).abs().amax(2).amin(1)
        return torch.where((distance < 1.1 * EPS).view(-1, 1, 1, 1), pixels, reversed_gradient(pixels))

    found = against_eps(subject(Before(model, turning), x, y))
    assert found.verdict == "masked", found.explanation
    assert "rises by" in found.explanation
    for check in (against_steps, against_restarts):
        assert check(subject(Before(model, turning), x, y)).verdict == "ok"


def test_an_attack_that_luck_decides_is_noted():
    """A third of the ball is misclassified, whichever way the slope says: ten starts find what one does not."""
    _, x, y = batch()

    def holes(pixels):
        inside = (pixels.flatten(1).sum(1) * 1e4).long() % 3 == 0
        clean = (pixels.unsqueeze(1) == x).flatten(2).all(2).any(1)
        return torch.stack([(inside & ~clean).float(), torch.full((len(pixels),), 0.5)], 1)

    found = against_restarts(subject(After(nn.Identity(), holes), x, torch.ones_like(y)))
    assert found.verdict == "note", found.explanation
    assert "still falls" in found.explanation
