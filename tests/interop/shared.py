"""What the checks with other libraries measure with."""

import importlib
import sys

import torch

EPS = 0.15
# Of the images that other libraries' networks are trained on here.
SIDE = 32


def import_torchvision():
    """Import torchvision, where it is installed, also if its compiled operators do not load beside this build of torch.

    What it registers for them then needs their names; nothing here calls them. timm and torchmetrics import it too.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
        importlib.import_module("torchvision")


def robust(model, x_adv, x, y, eps=EPS, norm="Linf"):
    """(n,) whether images stay classified right; the points are first checked to be in the ball and the box."""
    away = x_adv - x
    size = away.abs().flatten(1).amax(1) if norm == "Linf" else away.flatten(1).norm(dim=1)
    assert float(size.max()) <= eps + 1e-5
    assert float(x_adv.min()) >= -1e-6
    assert float(x_adv.max()) <= 1 + 1e-6
    with torch.no_grad():
        return model(x_adv.clamp(0, 1)).argmax(1) == y


def percent(values):
    """A share of True as the table shows it."""
    return f"{100 * float(values.double().mean()):.1f}%"
