"""Arithmetic that results may rest on: float32 without TF32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Run the block with TF32 off for matrix products and convolutions, and restore the settings afterwards.

    Attacks, refits and evaluations run inside it: TF32 keeps 10 bits of mantissa, which is coarser than the
    differences between log-space scores that decide a label.
    """
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution
