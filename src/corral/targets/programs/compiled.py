"""A compiled program as a module that attacks can hold: nothing to train, and its own batch size respected."""

import torch
from torch import Tensor, nn


class CompiledProgram(nn.Module):
    """A loaded program behind a plain module: its mode is what it was compiled in, its weights take no gradients.

    Programs refuse or ignore `.train()` and `.eval()`, and some run at the one batch size they were traced with. The
    program is not registered as a child, so that nothing walks into it; batches are cut and the last one is filled up
    to the size that the program takes.

    Args:
        program: images to logits.
        batch_size: the one batch size that the program runs at, or None.
    """

    def __init__(self, program: nn.Module, *, batch_size: int | None = None) -> None:
        super().__init__()
        for parameter in program.parameters():
            parameter.requires_grad_(False)
        self.__dict__["program"] = program
        self.batch_size = batch_size

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (N, C, H, W)."""
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
