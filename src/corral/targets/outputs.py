"""What a model gives for an image: checked once, in one line each, before any attack relies on it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from corral.attacks.state import attacked
from corral.attacks.wrapped_model import image_gradient
from corral.errors import CorralError
from corral.models.contract import ModelError, reason_of

SHAPES = ((1, 28), (3, 32), (1, 32), (3, 28), (3, 64), (3, 96), (3, 224), (1, 224), (3, 299))
SUM_TOLERANCE = 1e-3
# Numbers of images that a model must take with gradients: attacks go on with whichever are left.
BATCHES = (1, 2, 3, 8)


@contextmanager
def measuring(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The state of every forward pass of an audit: that of attacks."""
    with attacked(model), torch.autocast(device.type, enabled=False):
        yield


def outputs(model: nn.Module, x: Tensor, batch_size: int = 128) -> Tensor:
    """(N, C) outputs of images, inside `measuring`."""
    with torch.no_grad():
        return torch.cat([model(part) for part in torch.split(x, batch_size)])


def check_outputs(name: str, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(n, classes) outputs of a few images, inside `measuring`.

    Args:
        name: of the target, for the message.
        model: the model behind its preparation.
        x: (n, C, H, W) images.
        y: (N,) all the labels that will be needed, in the model's numbering.

    Raises:
        CorralError: the model fails on the images, or gives something else than one finite row of scores an image.
    """
    try:
        with torch.no_grad():
            found: Tensor = model(x)
    except ModelError as error:
        # What it returned says what is wrong; where it failed, other images are tried.
        raise CorralError(f"{name}: {_refusal(model, x, error) if error.__cause__ else error}") from error
    if found.shape[1] < 2:
        raise CorralError(
            f"{name}: the model returns one score an image, expected one a class; return (n, 2) logits such as (-s, s)"
        )
    if bad := int((~torch.isfinite(found)).any(1).sum()):
        raise CorralError(f"{name}: the outputs are not finite for {bad} of {len(x)} images; mend the model first")
    low, high, classes = int(y.min()), int(y.max()), found.shape[1]
    if low < 0 or high >= classes:
        offset = f"; if the labels count from another number, give --label-offset {-low}"
        hint = offset if 0 < high - low < classes else ""
        raise CorralError(
            f"{name}: the model has {classes} classes (0 to {classes - 1}) but the labels run from {low} to {high}: "
            f"give the data that the model was trained for{hint}"
        )
    _check_batches(name, model, x, found)
    return found


def _check_batches(name: str, model: nn.Module, x: Tensor, found: Tensor) -> None:
    """Whether the model also takes gradients and other numbers of images, as attacks need it; `found` are its outputs.

    Raises:
        CorralError: it fails, or gives another number of classes.
    """
    try:
        for count in BATCHES:
            part = x[:count].clone().requires_grad_(True)
            with torch.enable_grad():
                logits = model(part)
                image_gradient(logits.logsumexp(1), part)
            if logits.shape[1] != found.shape[1]:
                raise ModelError(
                    f"the model gives {logits.shape[1]} classes for {len(part)} images, {found.shape[1]} for {len(x)}"
                )
    except ModelError as error:
        raise CorralError(f"{name}: {error}") from error


def _refusal(model: nn.Module, x: Tensor, error: ModelError) -> str:
    """Why a model does not take these images, and what it would take."""
    reason = reason_of(error.__cause__) if isinstance(error.__cause__, Exception) else str(error)
    found = tuple(x.shape[1:])
    if _takes(model, x.permute(0, 2, 3, 1)):
        return f"the model takes images (N, H, W, C), found (N, C, H, W) with {found}; give --nhwc"
    if _takes(model, x.double()):
        return "the model is in float64, the images are float32; return the model with .float()"
    for channels, size in SHAPES:
        shape = (channels, size, size)
        if shape != found and _takes(model, torch.zeros(len(x), *shape, device=x.device)):
            return f"the model takes images of {shape}, found {found} (C, H, W); give such data, or wrap it"
    return f"the model does not take images of {found} (C, H, W): {reason}"


def _takes(model: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            model(x)
    except ModelError:
        return False
    return True


def are_probabilities(found: Tensor) -> bool:
    """Whether every row of (n, C) outputs is in [0, 1] and sums to 1."""
    inside = bool(((found >= 0) & (found <= 1)).all())
    return inside and bool(((found.double().sum(1) - 1).abs() < SUM_TOLERANCE).all())
