"""Checks of an attack's batch: what is unambiguous is taken, the rest is refused in a line."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corral.attacks.balls import NORMS, Norm

FRACTION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*")
# What pixels may be outside [0, 1] by, for the rounding of resizing and of files: they are clamped.
EXCESS = 1e-5
# Settings of these names must be at least 1.
COUNTS = ("steps", "restarts", "searches", "queries", "eot")
# Steps past the pixel range and so many eps are in levels, not in pixel units.
LONGEST_STEP = 10
LABEL_TYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def take_batch(
    x: Any, y: Any, eps: float | str, norm: str, *, norms: tuple[Norm, ...] = NORMS
) -> tuple[Tensor, Tensor, float]:
    """Images, labels and radius of an attack, as `take_images`, `take_labels` and `take_eps` take them.

    Args:
        x: (N, ...) float images in [0, 1], finite; what is outside by rounding is clamped.
        y: (N,) integer labels, at least 0.
        eps: finite radius in pixel units, at least 0, inside the box of the images.
        norm: one of `norms`.

    Raises:
        ValueError: anything else.
    """
    radius = take_eps(eps, norm, norms)
    x, y = take_shapes(x, y)
    check_inside(radius, norm, x.shape[1:])
    if not len(x):
        return x, y, radius
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{int((~torch.isfinite(x)).flatten(1).any(1).sum())} images hold NaN or infinite pixels")
    low, high = float(x.min()), float(x.max())
    if low < -EXCESS or high > 1 + EXCESS:
        remedy = "divide by 255 or undo normalisation" if low < -0.1 or high > 1.1 else "clip them"
        raise ValueError(f"pixels must be in [0, 1], found {low:.9g} to {high:.9g}; {remedy}")
    if int(y.min()) < 0:
        raise ValueError(f"labels must be >= 0, found {int(y.min())}")
    return x if low >= 0 and high <= 1 else x.clamp(0, 1), y, radius


def take_shapes(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Detached images and int64 labels; the part of `take_batch` that reads no value, so that no device need stop.

    Arrays and lists become tensors, half-precision images float32, other integers int64 on the images' device.

    Raises:
        ValueError: no float images (N, ...), no (N,) integer labels, or inference mode.
    """
    x = _tensor(x, "images")
    # Every gradient would be zero there, and the attack would report a robust model.
    if torch.is_inference_mode_enabled() or x.is_inference():
        raise ValueError(
            "attacks need gradients: call them outside torch.inference_mode(), on images made outside it (or cloned)"
        )
    if not x.is_floating_point() or x.dim() < 2:
        hint = "; divide them by 255" if x.dtype == torch.uint8 else ""
        raise ValueError(f"images must be floats (N, C, H, W), found {x.dtype} {tuple(x.shape)}{hint}")
    y = _tensor(y, "labels")
    if y.dtype not in LABEL_TYPES or y.shape != x.shape[:1]:
        raise ValueError(f"labels must be int64 ({len(x)},), found {y.dtype} {tuple(y.shape)}")
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return x.detach(), y.to(x.device, torch.int64)


def _tensor(values: Any, what: str) -> Tensor:
    """A tensor as it is, an array of numbers or a nested list as a tensor: floats of torch's default type."""
    if isinstance(values, Tensor):
        return values
    if not isinstance(values, np.ndarray | Sequence) or isinstance(values, str | bytes):
        raise ValueError(f"{what} must be a tensor, an array or a list, found {type(values).__name__}")
    try:
        if not isinstance(values, np.ndarray) and len(values) and all(isinstance(one, Tensor) for one in values):
            return torch.stack(list(values))
        found = torch.from_numpy(np.array(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} must be numbers of one shape ({str(error).splitlines()[0]})") from None
    return found.to(torch.get_default_dtype()) if found.dtype == torch.float64 else found


def eps_number(value: object, what: str = "eps") -> float:
    """The number in 0.1, "0.1" or "8/255"; ValueError for anything else."""
    wrong = f"{what} must be a number such as 0.1 or a fraction such as '8/255', found {value!r}"
    if isinstance(value, np.number | Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(wrong)
    fraction = FRACTION.fullmatch(str(value))
    try:
        return float(fraction[1]) / float(fraction[2]) if fraction else float(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(wrong) from None


def take_eps(eps: object, norm: str, norms: tuple[Norm, ...] = NORMS) -> float:
    """A radius in pixel units as a number, for one of these norms; ValueError for an impossible one."""
    if norm not in norms:
        raise ValueError(f"norm {norm!r} is not one of {', '.join(norms)}")
    radius = eps_number(eps)
    if not 0 <= radius < float("inf"):
        raise ValueError(f"eps must be a number >= 0, found {eps}")
    if norm == "Linf" and radius > 1:
        raise ValueError(f"eps {radius:g} exceeds the pixel range [0, 1]; did you mean {radius:g}/255?")
    return radius


def take_step_size(step_size: object, eps: float, norm: str) -> float:
    """The length of a step in pixel units as a number; ValueError for an impossible one, or one in levels."""
    size = eps_number(step_size, "step_size")
    if not 0 < size < float("inf"):
        raise ValueError(f"step_size must be finite and > 0, found {step_size}")
    if norm == "Linf" and size > max(1, LONGEST_STEP * eps):
        raise ValueError(f"step_size {size:g} exceeds the pixel range [0, 1]; did you mean {size:g}/255?")
    return size


def check_inside(eps: float, norm: str, shape: Sequence[int], what: str = "eps") -> None:
    """Refuse a radius past the box of images of this shape, in which no two images are so far apart.

    Raises:
        ValueError: an Linf radius above 1, an L2 radius above the box's diagonal, an L1 radius above its values.
    """
    values = math.prod(shape)
    farthest = {"Linf": 1.0, "L2": math.sqrt(values), "L1": float(values)}[norm]
    if eps > farthest * (1 + 1e-6):
        hint = f"did you mean {eps:g}/255?" if eps >= 2 else "it is in units of pixels in [0, 1]"
        size = "×".join(map(str, shape))
        raise ValueError(
            f"{what} {eps:g} is more than {farthest:.4g}, the largest {norm} distance of two images of {size}: {hint}"
        )


def check_counts(**counts: int) -> None:
    """Raise ValueError for a number of steps, restarts ... that is no integer or below 1."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer):
            raise ValueError(f"{name} must be an integer >= 1, found {count!r}")
        if count < 1:
            raise ValueError(f"{name} must be >= 1, found {count}")


def check_settings(settings: Mapping[str, Any], eps: float, norm: str) -> dict[str, Any]:
    """Settings of an attack with its counts checked and its step size as a number; ValueError for impossible ones."""
    check_counts(**{name: settings[name] for name in COUNTS if name in settings})
    size = settings.get("step_size")
    return dict(settings) if size is None else {**settings, "step_size": take_step_size(size, eps, norm)}


def check_labels(y: Tensor, classes: int) -> None:
    """Raise ValueError for a label that the model has no logit for."""
    if len(y) and int(y.max()) >= classes:
        raise ValueError(f"label {int(y.max())} is outside the model's {classes} classes")
