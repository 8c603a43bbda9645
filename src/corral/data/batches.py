"""The indices of one epoch in random order, in batches."""

from collections.abc import Iterator

import torch
from torch import Tensor


def shuffled(
    n: int, batch_size: int, *, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Iterator[Tensor]:
    """Every index of one epoch once, in random order.

    Args:
        n: number of images, at least 1.
        batch_size: images of a batch, at least 1.
        generator: decides the order; it draws on its own device, so that a CPU generator serves every device.
        device: where the indices are wanted.

    Returns:
        Batches of (batch_size,) int64 indices on `device`. The last one may be smaller; a last single index joins the
        batch before it, because batch statistics need two.

    Raises:
        ValueError: n or batch_size below 1.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"an epoch needs at least 1 row and 1 row a batch, got n = {n} and batch_size = {batch_size}")
    source = device if generator is None else generator.device
    order = torch.randperm(n, generator=generator, device=source).to(device)
    whole = n - 1 if n % batch_size == 1 and n > batch_size > 1 else n
    ends = [*range(batch_size, whole, batch_size), n]
    return (order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True))
