"""A compiled program as a module that attacks can hold: nothing to train, and its own batch size respected."""

import torch
from torch import Tensor, nn


class Sealed(nn.Module):
    """A loaded program behind a plain module: its mode is what it was compiled in, its weights take no gradients.

    Programs refuse or ignore `.train()` and `.eval()`, and some run at the one batch size they were traced with. The
    program is not registered as a child, so that nothing walks into it; batches are cut and the last one is filled up
    to the size that the program takes.

    Args:
        program: images to logits.
        shape: (C, H, W) that the program was traced for, None for what may vary; None where nothing is known.
        batch_size: the one batch size that the program runs at, or None.
    """

    def __init__(
        self, program: nn.Module, *, shape: tuple[int | None, ...] | None = None, batch_size: int | None = None
    ) -> None:
        super().__init__()
        for parameter in program.parameters():
            parameter.requires_grad_(False)
        self.__dict__["program"] = program
        self.shape, self.batch_size = shape, batch_size

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (N, C, H, W).

        Raises:
            ValueError: images of another shape than the program was traced for.
        """
        if self.shape is not None and not fits(tuple(x.shape[1:]), self.shape):
            raise ValueError(f"the program takes images of {shape_words(self.shape)}, found {tuple(x.shape[1:])}")
        program = self.__dict__["program"]
        size = self.batch_size
        if size is None or len(x) == size:
            output: Tensor = program(x)
            return output
        parts = []
        for part in torch.split(x, size):
            absent = size - len(part)
            # The last image stands in for those that are absent: what comes of it is thrown away.
            whole = torch.cat([part, part[-1:].detach().expand(absent, *part.shape[1:])]) if absent else part
            parts.append(program(whole)[: len(part)])
        return torch.cat(parts)


def fits(found: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Whether an image shape is one that the program takes; None stands for any size."""
    return len(found) == len(expected) and all(e is None or f == e for f, e in zip(found, expected, strict=True))


def shape_words(shape: tuple[int | None, ...]) -> str:
    """A shape for a message: "(3, 32, 32)", with "any" where the size may vary."""
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"
