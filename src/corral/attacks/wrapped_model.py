"""The model under attack: forward passes and image gradients, checked for NaN, counted, nothing built in vain."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from corral.errors import CorralError


class WrappedModel:
    """A model that an attack asks for logits and for gradients; use it inside `corral.attacks.state.attacked`.

    Attributes:
        forwards: images passed forward so far.
        backwards: images passed backward so far.
        classes: number of classes, known after the first pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.forwards = self.backwards = 0
        self.classes = 0

    def logits(self, x: Tensor) -> Tensor:
        """(n, C) logits of (n, ...) images, without a graph.

        Raises:
            CorralError: logits that are not finite.
            ValueError: logits of the wrong shape.
        """
        with torch.no_grad():
            logits: Tensor = self.model(x)
        self._heard(logits, len(x))
        return logits

    def gradient(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(n,) values of `function` of the logits, the (n, C) logits, and the gradient of each value by its image.

        Args:
            x: (n, ...) images.
            function: (n, C) logits to (n,) values, each of its own row alone.

        Raises:
            CorralError: logits or gradients that are not finite.
            ValueError: logits of the wrong shape.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            logits = self.model(x)
            self._heard(logits, len(x))
            values = function(logits)
            gradient = torch.zeros_like(x)
            # Logits that do not depend on the image (a quantised input) have no graph, or one that misses x.
            if values.requires_grad:
                (found,) = torch.autograd.grad(values.sum(), x, allow_unused=True)
                gradient = gradient if found is None else found
        self.backwards += len(x)
        if not bool(torch.isfinite(gradient).all()):
            raise CorralError("the model's gradients are not finite; mend the model first")
        return values.detach(), logits.detach(), gradient

    def _heard(self, logits: Tensor, count: int) -> None:
        self.forwards += count
        if logits.dim() != 2 or len(logits) != count:
            raise ValueError(f"the model must give logits ({count}, classes), found {tuple(logits.shape)}")
        # NaN logits have an argmax too: unchecked, they would pass for a successful attack.
        if not bool(torch.isfinite(logits.detach()).all()):
            bad = int((~torch.isfinite(logits.detach())).any(1).sum())
            raise CorralError(f"the model's logits are not finite for {bad} of {count} images; mend the model first")
        self.classes = logits.shape[1]
