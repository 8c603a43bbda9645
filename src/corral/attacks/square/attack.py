"""Square Attack (Andriushchenko et al. 2020): black-box random search over the eps-ball, window by window."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from corral.attacks.balls import ALL_NORMS, Norm
from corral.attacks.function import attack_function
from corral.attacks.noise import image_keys
from corral.attacks.objectives import margin
from corral.attacks.outcome import Outcome
from corral.attacks.square.l1 import L1Search
from corral.attacks.square.l2 import L2Search
from corral.attacks.square.linf import LinfSearch
from corral.attacks.wrapped_model import WrappedModel


class Search(Protocol):
    """A norm's moves for n rows; see `LinfSearch`."""

    best: Tensor

    def propose(self, iteration: int) -> None:
        """Turn `best` into the next candidates."""

    def settle(self, better: Tensor) -> None:
        """Keep the candidates of these rows, take the others back."""

    def keep(self, indices: Tensor) -> None:
        """Go on with these rows alone."""


SEARCHES: dict[Norm, Callable[[Tensor, Tensor, float], Search]] = {"Linf": LinfSearch, "L2": L2Search, "L1": L1Search}
# The restarts' keys are those of other seeds, far from any that a user gives.
RESTART = 2**32


@attack_function(ALL_NORMS)
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    queries: int = 5000,
    restarts: int = 1,
    seed: int = 0,
) -> Outcome:
    """Maximise the margin by random search: Square Attack with AutoAttack's parameters (p = 0.8, margin loss).

    Andriushchenko et al. 2020, "Square Attack" (Alg. 1 to 3); for L1, Croce & Hein 2021, "Mind the box". It uses
    logits alone, no gradients, so masking them does not stop it.

    Args:
        model: any module from float [0, 1] images to (N, C) logits; its mode and gradients are restored.
        x: (N, C, H, W) images in [0, 1], or (N, ...) of any shape: the last two dimensions are taken for the pixels'
            rows and columns, and vectors (N, d) for one row of pixels.
        y: (N,) int64 labels.
        eps: radius in pixel units and in `norm`.
        norm: "Linf", "L2" or "L1".
        queries: forward passes an image and restart may cost, at least 1; the start is the first.
        restarts: searches from new starts, for the images still classified right.
        seed: any integer. An image's result depends on its pixels and the seed, not on the batch.

    Returns:
        Images like x, within eps of x and in [0, 1]: misclassified where the attack succeeded, else the point of
        largest margin found.

    Raises:
        ValueError: impossible arguments, labels outside the classes, images that are not finite or not in [0, 1].
        CorralError: the model's logits are not finite.
    """
    with torch.no_grad():
        found = _Best(WrappedModel(model), x, y)
        for restart in range(restarts):
            x_left = x[found.remaining]
            if len(x_left) == 0:
                break
            search = SEARCHES[norm](x_left, image_keys(x_left, seed + restart * RESTART), eps)
            found.search(search, queries, restart * queries)
    return Outcome(found.x_adv, found.step >= 0, found.step, found.wrapped.forwards, 0)


class _Best:
    """The strongest point found for each image of a batch, and the indices of those still classified right."""

    def __init__(self, wrapped: WrappedModel, x: Tensor, y: Tensor) -> None:
        self.wrapped, self.y = wrapped, y
        self.x_adv = x.clone()
        channels_last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        logits = wrapped.clean_logits(x, y)
        self.highest = margin(logits, y)
        wrong = logits.argmax(1) != y
        self.step = torch.where(wrong, 0, -1)
        self.remaining = (~wrong).nonzero().squeeze(1)

    def search(self, search: Search, queries: int, before: int) -> None:
        """Search for the remaining images until each attack's first success; `before`: earlier restarts' queries."""
        indices = self.remaining
        labels, highest = self.y[indices], torch.full_like(self.highest[indices], -torch.inf)
        for query in range(queries):
            if query:
                search.propose(query - 1)
            # The contract's copy is the only one: the model never gets these.
            candidates = search.best.view(-1, *self.x_adv.shape[1:]).contiguous(memory_format=self.layout)
            logits = self.wrapped.logits(candidates)
            heights = margin(logits, labels)
            wrong = logits.argmax(1) != labels
            better = (heights > highest) | wrong
            if query:
                search.settle(better)
            highest = torch.where(better, heights, highest)
            if bool(wrong.any()):
                self._take(indices, search.best, wrong)
                self.step[indices[wrong]] = before + query + 1
                stays = (~wrong).nonzero().squeeze(1)
                indices, labels, highest = indices[stays], labels[stays], highest[stays]
                self.remaining = indices
                if len(indices) == 0:
                    return
                search.keep(stays)
        higher = highest > self.highest[indices]
        self._take(indices, search.best, higher)
        self.highest[indices[higher]] = highest[higher]

    def _take(self, indices: Tensor, points: Tensor, chosen: Tensor) -> None:
        self.x_adv[indices[chosen]] = points[chosen].view(-1, *self.x_adv.shape[1:])
