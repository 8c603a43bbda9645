"""Arithmetic that results may rest on: float32 or wider, without autocast and without TF32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    before = [switch.first_readable() for switch in _switches()]
    for switch, _ in before:
        switch.write(switch.off)
    try:
        yield
    finally:
        for switch, value in before:
            switch.write(value)


@dataclass(frozen=True)
class _Switch:
    """One of torch's settings of float32 arithmetic, and the others that may hold the same if this one is refused.

    torch has three generations of these settings and raises where a newer one was used before an older one is read.
    """

    read: Callable[[], Any]
    write: Callable[[Any], None]
    off: Any
    otherwise: "_Switch | None" = None

    def first_readable(self) -> "tuple[_Switch, Any]":
        """The first setting that torch lets us read, with its value."""
        try:
            return self, self.read()
        except RuntimeError:
            if self.otherwise is None:
                raise
            return self.otherwise.first_readable()


def _attribute(holder: Any, name: str, off: Any, otherwise: _Switch | None = None) -> _Switch:
    return _Switch(lambda: getattr(holder, name), lambda value: setattr(holder, name, value), off, otherwise)


def _switches() -> list[_Switch]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if not hasattr(matmul, "fp32_precision"):  # torch 2.8
        return [_attribute(matmul, "allow_tf32", False), _attribute(cudnn, "allow_tf32", False)]
    operators: list[Any] = [cudnn.conv, cudnn.rnn]  # type: ignore[attr-defined]

    def write_operators(values: list[str]) -> None:
        for operator, value in zip(operators, values, strict=True):
            operator.fp32_precision = value

    newest = _Switch(lambda: [operator.fp32_precision for operator in operators], write_operators, ["ieee", "ieee"])
    older = _attribute(matmul, "allow_tf32", False, _attribute(matmul, "fp32_precision", "ieee"))
    oldest = _Switch(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest", older)
    return [oldest, _attribute(cudnn, "allow_tf32", False, newest)]


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
