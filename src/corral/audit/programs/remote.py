"""A program in another process as a module that attacks can hold: logits and gradients come from there."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from corral.audit.programs.process import Process


class Remote(nn.Module):
    """A program of a file behind a plain module: no weights, one mode, and the process ends with it.

    Args:
        process: holds the program.
    """

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
        if process.shape is not None and not fits(tuple(x.shape[1:]), process.shape):
            raise ValueError(f"the program takes images of {shape_words(process.shape)}, found {tuple(x.shape[1:])}")
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


def fits(found: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Whether an image shape is one that the program takes; None stands for any size."""
    return len(found) == len(expected) and all(e is None or f == e for f, e in zip(found, expected, strict=True))


def shape_words(shape: tuple[int | None, ...]) -> str:
    """A shape for a message: "(3, 32, 32)", with "any" where the size may vary."""
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"
