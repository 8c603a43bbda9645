"""A training batch over several processes: each computes the features of some of its images, all have them all.

All processes have the batch's labels and random numbers, and its images but for the pixels of other processes' rows,
which are NaN, so that nothing computed from them goes unnoticed. Row i is process i mod P's. `Classifier.features`
takes the own rows and gathers the others' features; what follows, the loss of the whole batch, is computed in all.

Gradients: L is one number, computed P times. A gathered feature gives its gradient, times P, to the process that
computed it, so that the mean of all processes' gradients is the gradient of L in every weight, whether it lies before
the gathering (each process has its rows' share) or behind it (all have the same). The gradient in the images is divided
by P again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from corral.distributed import ranks


class _State:
    """The images of the batch that is split now; 0 where none is."""

    batch = 0


def splits(count: int) -> bool:
    """Whether a batch of so many images is split: where each process has two of them, as batch statistics need."""
    return ranks.size() > 1 and count >= 2 * ranks.size()


@contextmanager
def split(count: int) -> Iterator[None]:
    """Split a batch of `count` images, and what is stacked of several such, in the block."""
    before = _State.batch
    _State.batch = count if splits(count) else 0
    try:
        yield
    finally:
        _State.batch = before


def own_rows(count: int) -> range:
    """The rows of a batch of `count` images that this process computes."""
    return range(ranks.rank(), count, ranks.size()) if splits(count) else range(count)


def is_split() -> bool:
    """Whether a batch is split now."""
    return _State.batch > 0


def only_own(x: Tensor) -> Tensor:
    """A batch's (n, ...) floating-point images with NaN for other processes' rows."""
    if not splits(len(x)):
        return x
    mine = torch.arange(len(x), device=x.device) % ranks.size() == ranks.rank()
    return torch.where(mine.view(-1, *[1] * (x.dim() - 1)), x, torch.nan)


def scatter(x: Tensor) -> Tensor:
    """(m, ...) the own rows of n images, n a multiple of the batch's."""
    taken: Tensor = _Scatter.apply(x, _owners(len(x)))  # type: ignore[no-untyped-call]
    return taken


def gather(features: Tensor, count: int) -> Tensor:
    """(count, d) features of all rows, of the own ones (m, d)."""
    found: Tensor = _Gather.apply(features, _owners(count))  # type: ignore[no-untyped-call]
    return found


def _owners(count: int) -> Tensor:
    """(n,) which process computes each row.

    Raises:
        ValueError: rows that are no whole batches.
    """
    batch = _State.batch
    if count % batch:
        raise ValueError(
            f"{count} images at once, of a batch of {batch} that several processes share: features of a part of it are "
            "not shared; take those of the whole batch"
        )
    return torch.arange(count) % batch % ranks.size()


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, owners: Tensor) -> Tensor:
        ctx.own = (owners == ranks.rank()).nonzero().squeeze(1).to(x.device)
        ctx.shape = x.shape
        return x[ctx.own]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        whole = gradient.new_zeros(ctx.shape)
        whole[ctx.own] = gradient / ranks.size()
        return whole, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, owners: Tensor) -> Tensor:
        most = int(torch.bincount(owners, minlength=ranks.size()).max())
        padded = own.new_zeros(most, *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(ranks.size())]
        ranks.exchanged(lambda: dist.all_gather(parts, padded))
        whole = own.new_empty(len(owners), *own.shape[1:])
        for number, part in enumerate(parts):
            rows = (owners == number).nonzero().squeeze(1).to(own.device)
            whole[rows] = part[: len(rows)]
            if number == ranks.rank():
                ctx.own = rows
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient[ctx.own] * ranks.size(), None
