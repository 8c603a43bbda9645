"""Square Attack (Andriushchenko et al. 2020): black-box random search over the eps-ball, window by window."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from corral.attacks.balls import ALL_NORMS, Norm
from corral.attacks.checks import check_labels
from corral.attacks.function import attack_function
from corral.attacks.noise import image_keys
from corral.attacks.objectives import margin
from corral.attacks.outcome import Outcome
from corral.attacks.square.l1 import L1Search
from corral.attacks.square.l2 import L2Search
from corral.attacks.square.linf import LinfSearch
from corral.attacks.wrapped_model import WrappedModel


class Search(Protocol):
    """A norm's moves for the standing rows: `best` (n, d) is the start, then the candidate or the best point."""

    best: Tensor

    def propose(self, iteration: int) -> None:
        """Turn `best` into the next candidates."""

    def settle(self, better: Tensor) -> None:
        """Keep the candidates of these rows, take the others back."""

    def keep(self, rows: Tensor) -> None:
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
        restarts: searches from new starts for the images that stand.
        seed: any integer. An image's result depends on its pixels and the seed, not on the batch.

    Returns:
        Images like x, within eps of x and in [0, 1]: misclassified where the attack succeeded, else the point of
        largest margin met.

    Raises:
        ValueError: impossible arguments, labels outside the classes, images that are not finite or not in [0, 1].
        CorralError: the model's logits are not finite.
    """
    with torch.no_grad():
        hunt = _Hunt(WrappedModel(model), x, y)
        for restart in range(restarts):
            x_left = x[hunt.standing]
            if len(x_left) == 0:
                break
            search = SEARCHES[norm](x_left, image_keys(x_left, seed + restart * RESTART), eps)
            hunt.restart(search, queries, restart * queries)
    return Outcome(hunt.found, hunt.step >= 0, hunt.step, hunt.wrapped.forwards, 0)


class _Hunt:
    """The strongest point found for each image of a batch, and the rows still standing."""

    def __init__(self, wrapped: WrappedModel, x: Tensor, y: Tensor) -> None:
        self.wrapped, self.y = wrapped, y
        self.found = x.clone()
        channels_last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        # A copy: a model that works in place must not spoil the images.
        logits = wrapped.logits(x.clone())
        check_labels(y, wrapped.classes)
        self.highest = margin(logits, y)
        wrong = logits.argmax(1) != y
        self.step = torch.where(wrong, 0, -1)
        self.standing = (~wrong).nonzero().squeeze(1)

    def restart(self, search: Search, queries: int, before: int) -> None:
        """Search for the standing rows; each leaves as soon as it falls. `before`: queries of earlier restarts."""
        rows = self.standing
        labels, highest = self.y[rows], torch.full_like(self.highest[rows], -torch.inf)
        for query in range(queries):
            if query:
                search.propose(query - 1)
            candidates = search.best.view(-1, *self.found.shape[1:]).clone(memory_format=self.layout)
            logits = self.wrapped.logits(candidates)
            heights = margin(logits, labels)
            fallen = logits.argmax(1) != labels
            better = (heights > highest) | fallen
            if query:
                search.settle(better)
            highest = torch.where(better, heights, highest)
            if bool(fallen.any()):
                self._take(rows, search.best, fallen)
                self.step[rows[fallen]] = before + query + 1
                stays = (~fallen).nonzero().squeeze(1)
                rows, labels, highest = rows[stays], labels[stays], highest[stays]
                self.standing = rows
                if len(rows) == 0:
                    return
                search.keep(stays)
        higher = highest > self.highest[rows]
        self._take(rows, search.best, higher)
        self.highest[rows[higher]] = highest[higher]

    def _take(self, rows: Tensor, points: Tensor, chosen: Tensor) -> None:
        self.found[rows[chosen]] = points[chosen].view(-1, *self.found.shape[1:])
