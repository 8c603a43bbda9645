"""Adversarial weight perturbation (Wu et al., NeurIPS 2020): the loss of the worst weights near those of training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from corral.distributed import ranks

TINY = 1e-20


def perturbed_weights(model: nn.Module) -> list[nn.Parameter]:
    """What is perturbed: trainable weights of two dimensions and more, as in the authors' code; no biases or norms."""
    named = model.named_parameters()
    return [weight for name, weight in named if weight.requires_grad and weight.dim() > 1 and "weight" in name]


@contextmanager
def moved(weights: Sequence[Tensor], slopes: Sequence[Tensor | None], gamma: float) -> Iterator[None]:
    """Move weights by v_l = gamma ||w_l|| g_l / ||g_l|| (Eq. 8 to 10, one step); they come back to the bit.

    Args:
        weights: w_l, moved in place.
        slopes: g_l, the gradient of the loss in each; None or zero leaves a weight where it is.
        gamma: the length of the move as a share of the weight's own.
    """
    own = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, slope in zip(weights, slopes, strict=True):
            if slope is not None:
                weight.add_(slope * (gamma * weight.norm() / slope.norm().clamp_min(TINY)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, own, strict=True):
                weight.copy_(before)


@contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """Leave BatchNorm's statistics, and whatever else a forward pass in train mode moves, as they were."""
    own = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), own, strict=True):
                buffer.copy_(before)


class Adversaries:
    """The adversarial images of a batch, made once and shown again where its loss is computed a second time."""

    def __init__(self) -> None:
        self._kept: list[Tensor] | None = None
        self._shown: Iterator[Tensor] | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what is made in here, for `shown`."""
        self._kept = []
        yield

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show what was kept, in its order, and forget it."""
        assert self._kept is not None
        self._shown, self._kept = iter(self._kept), None
        try:
            yield
        finally:
            self._shown = None

    def once(self, make: Callable[[], Tensor]) -> Tensor:
        """What `make` makes, or what it made for this batch before."""
        if self._shown is not None:
            return next(self._shown)
        found = make()
        if self._kept is not None:
            self._kept.append(found)
        return found


@contextmanager
def perturbed(
    model: nn.Module,
    loss: Callable[[], tuple[Tensor, object]],
    gamma: float,
    *,
    adversaries: Adversaries,
    chance: Sequence[torch.Generator],
) -> Iterator[None]:
    """Hold the weights moved up a batch's loss; the loss that is taken in here meets what it met the first time.

    The first pass leaves BatchNorm's statistics as they were. Its adversarial images are shown again, and views and
    whatever else is drawn from `chance` are the same.

    Args:
        model: whose `perturbed_weights` move.
        loss: the batch's, first of what it returns.
        gamma: as `moved` has it.
        adversaries: of the method whose loss it is.
        chance: the sources that the loss draws from.
    """
    before = [source.get_state() for source in chance]
    weights = perturbed_weights(model)
    with adversaries.kept(), same_buffers(model):
        slopes = torch.autograd.grad(loss()[0], weights, allow_unused=True)
    ranks.average(slopes)
    after = [source.get_state() for source in chance]
    for source, state in zip(chance, before, strict=True):
        source.set_state(state)
    with moved(weights, slopes, gamma), adversaries.shown():
        yield
    for source, state in zip(chance, after, strict=True):
        source.set_state(state)
