"""Checks of an attack's batch, one line each for what a caller can get wrong."""

import torch
from torch import Tensor

from corral.attacks.balls import NORMS, Norm


def check_batch(x: Tensor, y: Tensor, eps: float, norm: str, *, norms: tuple[Norm, ...] = NORMS) -> None:
    """Check images, labels and threat.

    Args:
        x: (N, ...) float images in [0, 1], finite.
        y: (N,) int64 labels, at least 0.
        eps: finite radius in pixel units, at least 0; for Linf at most 1.
        norm: one of `norms`.

    Raises:
        ValueError: anything else.
    """
    check_threat(eps, norm, norms)
    check_shapes(x, y)
    if not len(x):
        return
    x = x.detach()
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{int((~torch.isfinite(x)).flatten(1).any(1).sum())} images hold NaN or infinite pixels")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise ValueError(f"pixels must be in [0, 1], found {low:g} to {high:g}; divide by 255 or undo normalisation")
    if int(y.min()) < 0:
        raise ValueError(f"labels must be >= 0, found {int(y.min())}")


def check_threat(eps: float, norm: str, norms: tuple[Norm, ...] = NORMS) -> None:
    """The part of `check_batch` that needs no images."""
    if norm not in norms:
        raise ValueError(f"norm {norm!r} is not one of {', '.join(norms)}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps must be a number >= 0, found {eps}")
    if norm == "Linf" and eps > 1:
        raise ValueError(f"eps {eps:g} exceeds the pixel range [0, 1]; did you mean {eps:g}/255?")


def check_shapes(x: Tensor, y: Tensor) -> None:
    """The part of `check_batch` that reads no value, so that a device need not stop for it."""
    # Every gradient would be zero there, and the attack would report a robust model.
    if torch.is_inference_mode_enabled() or x.is_inference():
        raise ValueError(
            "attacks need gradients: call them outside torch.inference_mode(), on images made outside it (or cloned)"
        )
    if not x.is_floating_point() or x.dim() < 2:
        raise ValueError(f"images must be floats (N, C, H, W), found {x.dtype} {tuple(x.shape)}")
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise ValueError(f"labels must be int64 ({len(x)},), found {y.dtype} {tuple(y.shape)}")


def check_counts(**counts: int) -> None:
    """Raise ValueError for a number of steps, restarts ... below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be >= 1, found {count}")


def check_labels(y: Tensor, classes: int) -> None:
    """Raise ValueError for a label that the model has no logit for."""
    if len(y) and int(y.max()) >= classes:
        raise ValueError(f"label {int(y.max())} is outside the model's {classes} classes")
