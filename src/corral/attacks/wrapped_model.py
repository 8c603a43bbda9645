"""The model under attack: forward passes and image gradients, checked for NaN and counted."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from corral.attacks.checks import check_labels
from corral.errors import CorralError
from corral.models.contract import ModelError, contracted, reason_of


def image_gradient(values: Tensor, x: Tensor, *, retain: bool = False) -> Tensor:
    """The gradient of the sum of values by the images; zero where no graph leads to them (a quantised input).

    Args:
        values: (n,), or one number.
        x: (n, ...) images that require a gradient.
        retain: whether the graph is needed again.

    Raises:
        ModelError: the model's backward pass fails.
    """
    gradient = None
    if values.requires_grad:
        ones = torch.ones_like(values)
        try:
            (gradient,) = torch.autograd.grad(values, x, ones, retain_graph=retain, allow_unused=True)
        except (CorralError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # foreign code: anything can come
            raise ModelError(f"the model has no gradient for {len(x)} images: {reason_of(error)}") from error
    return torch.zeros_like(x) if gradient is None else gradient


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite: their sum tells at a tenth of the cost; only one that overflowed may err."""
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


class WrappedModel:
    """A model that an attack asks for logits and for gradients; use it inside `corral.attacks.state.attacked`.

    Attributes:
        forwards: images passed forward so far.
        backwards: images passed backward so far.
        classes: number of classes, known after the first pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = contracted(model)
        self.forwards = self.backwards = 0
        self.classes = 0

    def logits(self, x: Tensor) -> Tensor:
        """(n, C) logits of (n, ...) images, without a graph; errors as `gradient`."""
        with torch.no_grad():
            logits: Tensor = self.model(x)
        self._check(logits, len(x))
        return logits

    def clean_logits(self, x: Tensor, y: Tensor) -> Tensor:
        """`logits` of the clean images; ValueError for labels outside them."""
        logits = self.logits(x)
        check_labels(y, self.classes)
        return logits

    def gradient(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(n,) values of `function` of the logits, the (n, C) logits, and the gradient of each value by its image.

        Args:
            x: (n, ...) images.
            function: (n, C) logits to (n,) values, each of its own row alone.

        Raises:
            CorralError: logits or gradients that are not finite, or what the model's contract says.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            logits = self.model(x)
            self._check(logits, len(x))
            values = function(logits)
            gradient = self._gradient_of(values, x)
        return values.detach(), logits.detach(), gradient

    def _gradient_of(self, values: Tensor, x: Tensor, *, retain: bool = False) -> Tensor:
        """`image_gradient`, counted and checked."""
        gradient = image_gradient(values, x, retain=retain)
        self.backwards += len(x)
        if not all_finite(gradient):
            raise CorralError("the model's gradients are not finite; mend the model first")
        return gradient

    def _check(self, logits: Tensor, count: int) -> None:
        """Count a forward pass and check its logits."""
        self.forwards += count
        # NaN logits have an argmax too: unchecked, they would count as a successful attack.
        if not all_finite(logits.detach()):
            bad = int((~torch.isfinite(logits.detach())).any(1).sum())
            raise CorralError(f"the model's logits are not finite for {bad} of {count} images; mend the model first")
        self.classes = logits.shape[1]
