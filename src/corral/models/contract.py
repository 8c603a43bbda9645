"""The contract of a model under measurement: images that are its own, and float logits from whatever it returns."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from corral.errors import CorralError

M = TypeVar("M", bound=nn.Module)


class ModelError(CorralError, ValueError):
    """A model that failed on images, or returned something that is not one row of logits an image."""


class ContractedModel(nn.Module):
    """A model behind its contract: float images (N, ...) to (N, C) float logits; see `contracted`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) logits of (N, ...) images.

        Raises:
            ModelError: the model failed, or returned no logits.
        """
        return logits_in(ask(self.model, x), len(x))

    def __getattr__(self, name: str) -> Any:
        """What the model itself has, such as a Classifier's `features` and `head`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


def contracted(model: nn.Module) -> nn.Module:
    """A model that never gets the caller's own images and gives (N, C) float logits or one line that says why not.

    It takes what is unambiguous: a tensor, a tuple, list or dict that holds one tensor, a dict with "logits", an
    object with `.logits`, and one unbatched row for one image. Half precision becomes float32.

    Args:
        model: any module; a contracted one stays as it is.
    """
    return model if isinstance(model, ContractedModel) else ContractedModel(model)


def bare(model: M) -> M:
    """The module that `contracted` was given; of another module itself."""
    return model.model if isinstance(model, ContractedModel) else model  # type: ignore[return-value]


def ask(function: Callable[[Tensor], Any], x: Tensor) -> Any:
    """What a function of foreign code gives for a copy of images, which it may change in place.

    Raises:
        ModelError: it failed.
    """
    try:
        return function(x.clone())
    except (CorralError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # foreign code: anything can come
        raise ModelError(f"the model fails on {_batch(x)}: {reason_of(error)}; mend the model first") from error


def logits_in(found: Any, count: int) -> Tensor:
    """The (count, C) float logits in what a model returned for `count` images, as `contracted` says.

    Raises:
        ModelError: there are none, or it is not evident which they are.
    """
    logits = one_tensor(found)
    if count == 1 and logits.dim() == 1 and len(logits) > 1:
        logits = logits.unsqueeze(0)  # a model that squeezes its output
    if logits.dim() != 2 or len(logits) != count or not logits.is_floating_point():
        raise ModelError(
            f"the model returns {logits.dtype} {tuple(logits.shape)} for {count} image{'s' * (count != 1)}, expected "
            f"float logits ({count}, classes)"
        )
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def reason_of(error: Exception) -> str:
    """An error of foreign code in a line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def one_tensor(found: Any) -> Tensor:
    """The one tensor in what a model returned.

    Raises:
        ModelError: there is none, or it is not evident which.
    """
    if isinstance(found, Tensor):
        return found
    named = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", None)
    if isinstance(named, Tensor):
        return named
    values = found.values() if isinstance(found, Mapping) else found if isinstance(found, tuple | list) else ()
    held = list(values)
    if len(held) == 1 and isinstance(held[0], Tensor):
        return held[0]
    raise ModelError(f"the model returns {_described(found)}, expected a tensor of logits; return only the logits")


def _described(found: Any) -> str:
    name = type(found).__name__
    if type(found).__module__ == "numpy":
        return f"a {type(found).__module__}.{name}, through which no gradient leads"
    return f"a {name}"


def _batch(x: Tensor) -> str:
    words = f"{len(x)} image{'s' * (len(x) != 1)} of {tuple(x.shape[1:])}"
    return f"{words} with gradients" if torch.is_grad_enabled() and x.requires_grad else words
