"""Impossible requests of `pgd` and broken models: one clear line each."""

import pytest
import torch
from torch import nn

from corral.attacks import pgd
from corral.errors import CorralError
from corral.models import Classifier, ClusterHead


def attack(x=None, y=None, model=None, **changed):
    x = torch.full((4, 1, 2, 2), 0.5) if x is None else x
    y = torch.arange(4) % 3 if y is None else y
    if model is None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    arguments = {"eps": 0.1, "steps": 2, "step_size": 0.05} | changed
    return pgd(model, x, y, **arguments)


ARGUMENTS = {
    "eps 8 is 8/255": ({"eps": 8.0}, r"eps 8 exceeds the pixel range \[0, 1\]; did you mean 8/255\?"),
    "eps negative": ({"eps": -0.1}, r"eps must be a number >= 0, found -0.1"),
    "eps NaN": ({"eps": float("nan")}, r"eps must be a number >= 0, found nan"),
    "eps infinite": ({"eps": float("inf"), "norm": "L2"}, r"eps must be a number >= 0, found inf"),
    "no steps": ({"steps": 0}, "steps must be >= 1, found 0"),
    "no restarts": ({"restarts": 0}, "restarts must be >= 1, found 0"),
    "no step size": ({"step_size": 0.0}, "step_size must be finite and > 0, found 0.0"),
    "infinite step size": ({"step_size": float("inf")}, "step_size must be finite and > 0, found inf"),
    "step size 2 is 2/255": ({"step_size": 2.0}, r"step_size 2 exceeds the pixel range .*; did you mean 2/255\?"),
    "norm": ({"norm": "L1"}, r"norm 'L1' is not one of Linf, L2"),
    "keep": ({"keep": "bset"}, r"keep 'bset' is not one of best, last, max_loss_restart"),
    "mode": ({"mode": "test"}, r"mode 'test' is not one of eval, train"),
    "objective": ({"objective": "ce"}, r"unknown objective 'ce'; known: cross_entropy"),
}


@pytest.mark.parametrize("keep", ["best", "last", "max_loss_restart"])
@pytest.mark.parametrize(("changed", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_impossible_arguments(changed, message, keep):
    with pytest.raises(ValueError, match=message) as caught:
        attack(**({"keep": keep} | changed))
    assert "\n" not in str(caught.value)


def with_pixel(value):
    x = torch.full((4, 1, 2, 2), 0.5)
    x[1, 0, 0, 0] = value
    return x


PIXELS = {
    "NaN": (with_pixel(float("nan")), r"1 images hold NaN or infinite pixels"),
    "infinite": (with_pixel(float("inf")), r"1 images hold NaN or infinite pixels"),
    "0 to 255": (with_pixel(255.0), r"pixels must be in \[0, 1\], found 0.5 to 255; divide by 255"),
    "normalised": (with_pixel(-1.5), r"pixels must be in \[0, 1\], found -1.5 to 0.5; .* undo normalisation"),
    "uint8": (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), r"images must be floats \(N, C, H, W\), found torch.uint8"),
    "a vector": (torch.zeros(4), r"images must be floats \(N, C, H, W\), found torch.float32 \(4,\)"),
}


@pytest.mark.parametrize("keep", ["best", "max_loss_restart"])
@pytest.mark.parametrize(("x", "message"), PIXELS.values(), ids=PIXELS)
def test_images_that_are_none(x, message, keep):
    with pytest.raises(ValueError, match=message) as caught:
        attack(x, keep=keep)
    assert "\n" not in str(caught.value)


LABELS = {
    "too large": (torch.tensor([0, 1, 2, 3]), r"label 3 is outside the model's 3 classes"),
    "negative": (torch.tensor([0, -1, 2, 0]), r"labels must be >= 0, found -1"),
    "of another dtype": (torch.zeros(4), r"labels must be int64 \(4,\), found torch.float32 \(4,\)"),
    "too few": (torch.zeros(3, dtype=torch.int64), r"labels must be int64 \(4,\), found torch.int64 \(3,\)"),
    "one-hot": (torch.zeros(4, 3, dtype=torch.int64), r"labels must be int64 \(4,\), found torch.int64 \(4, 3\)"),
}


@pytest.mark.parametrize("objective", ["cross_entropy", "margin", "kl"])
@pytest.mark.parametrize("keep", ["best", "max_loss_restart"])
@pytest.mark.parametrize(("y", "message"), LABELS.values(), ids=LABELS)
def test_labels_that_are_none(y, message, keep, objective):
    with pytest.raises(ValueError, match=message):
        attack(y=y, keep=keep, objective=objective)


@pytest.mark.parametrize("objective", ["magnet", "published_cross_entropy", "published_magnet"])
def test_labels_outside_the_clusters_classes(objective):
    model = Classifier(nn.Flatten(), ClusterHead(torch.eye(4)[:3], torch.arange(3), 1.0), [0.0], [1.0])
    with pytest.raises(ValueError, match=r"label 3 is outside the model's 3 classes"):
        attack(y=torch.tensor([0, 1, 2, 3]), model=model, objective=objective)


class Broken(nn.Module):
    """Three logits, the first of an example spoilt from the given call on."""

    def __init__(self, value, call, rows=slice(1, 3)):
        super().__init__()
        self.value, self.call, self.rows, self.calls = value, call, rows, 0

    def forward(self, x):
        self.calls += 1
        logits = torch.stack([3 - x[:, 0, 0, 0], x[:, 0, 0, 1], x[:, 0, 1, 0]], 1)
        if self.calls >= self.call:
            logits = logits.clone()
            logits[self.rows, 1] = self.value
        return logits


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("keep", ["best", "max_loss_restart"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_logits_that_are_not_finite_are_no_success(value, keep, call):
    # NaN wins torch's argmax: unnoticed, it would pass for a misclassification.
    with pytest.raises(CorralError, match=r"not finite for 2 of 4 images; mend the model first"):
        attack(y=torch.zeros(4, dtype=torch.int64), model=Broken(value, call), keep=keep)


def test_gradients_that_are_nan_are_no_success():
    class NoGradient(nn.Module):
        def forward(self, x):
            # sqrt(0) has an infinite derivative, times 0: NaN.
            corner = x[:, 0, 0, 0]
            return torch.stack([1 + (corner * 0).sqrt(), corner, corner / 2], 1)

    with pytest.raises(CorralError, match=r"logits or gradients are not finite for 4 of 4 images"):
        attack(y=torch.zeros(4, dtype=torch.int64), model=NoGradient())


def test_logits_of_another_shape():
    with pytest.raises(ValueError, match=r"\(4, 1, 2, 2\) for 4 images, expected float logits \(4, classes\)"):
        attack(model=nn.Identity())


def test_an_objective_must_give_one_value_an_example():
    with pytest.raises(ValueError, match=r"the objective must give values \(4,\), found \(\)"):
        attack(objective=lambda logits, labels: logits.sum())


@pytest.mark.parametrize("keep", ["best", "last", "max_loss_restart"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_no_images_give_no_images(keep, norm):
    found = attack(torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64), keep=keep, norm=norm)
    assert found.shape == (0, 1, 2, 2)
    assert found.dtype == torch.float32
