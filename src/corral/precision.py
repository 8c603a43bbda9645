"""Arithmetic that results may rest on: float32 or wider, without autocast and without TF32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


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


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point() and value.element_size() < 4:
        return value.float()
    return value


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Make a tensor function run in float32 or wider: autocast is off inside, half and bfloat16 arguments are widened.

    Squared distances and their exponentials lose every digit that decides between two clusters in bfloat16. float64
    arguments stay float64. TF32 is a global switch of torch, off by default for matrix products; it is not touched.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        wide_args = [_widen(value) for value in args]
        wide_kwargs = {name: _widen(value) for name, value in kwargs.items()}
        device = next((value.device.type for value in wide_args if isinstance(value, Tensor)), None)
        if device is None or not torch.is_autocast_enabled(device):
            return function(*wide_args, **wide_kwargs)
        with torch.autocast(device, enabled=False):
            return function(*wide_args, **wide_kwargs)

    return wrapped
