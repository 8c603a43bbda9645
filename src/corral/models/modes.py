"""The mode of a module, and eval mode within a block."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def set_mode(module: nn.Module, training: bool) -> None:
    """`module.train(training)`, as far as its parts have modes: a torch.export program stays in that of its export."""
    try:
        module.train(training)
    except NotImplementedError:  # what torch.export's programs raise, also within another module
        for part in module.modules():
            part.training = training


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Every submodule in eval mode in the block, and then each in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, training in modes:
            part.training = training
