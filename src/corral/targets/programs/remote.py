"""A program in another process as a module that attacks can hold: logits and gradients come from there."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from corral.targets.programs.process import Process


class Remote(nn.Module):
    """The program of a process behind a plain module: no weights, one mode, and the process ends with it."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.__dict__["process"] = process

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (N, C, H, W), differentiable once in the images.

        Raises:
            ValueError: images of another shape than the program was traced for.
            RuntimeError: the program failed.
            CorralError: its process ended.
        """
        process: Process = self.__dict__["process"]
        found, expected = tuple(x.shape[1:]), process.shape
        if expected is not None and not (
            len(found) == len(expected) and all(e is None or f == e for f, e in zip(found, expected, strict=True))
        ):
            words = ", ".join("any" if size is None else str(size) for size in expected)
            raise ValueError(f"the program takes images of ({words}), found {found}")
        wanted = torch.is_grad_enabled() and x.requires_grad
        logits, number = process.forward(x.detach(), gradient=wanted)
        if number is None:
            return logits
        output: Tensor = _Pass.apply(x, logits, _Held(process, number))  # type: ignore[no-untyped-call]
        return output


class _Held:
    """A forward pass whose graph the other process keeps as long as this object lives."""

    def __init__(self, process: Process, number: int) -> None:
        self.process, self.number = process, number
        weakref.finalize(self, process.forget, number).atexit = False


class _Pass(torch.autograd.Function):
    """The logits that a process gave, with its vector-Jacobian product as the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor, held: _Held) -> Tensor:
        ctx.held = held
        return logits.view_as(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.held.process.backward(ctx.held.number, gradient), None, None
