"""The state a model is attacked in, and its restoration."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import nn

from corral.models.backbones import Backbone
from corral.models.folding import folded
from corral.models.layout import takes_channels_last
from corral.models.modes import set_mode
from corral.precision import full_float32

Mode = Literal["eval", "train"]
# Computed in float32: widening changes no weight, and in half precision gradients underflow, which hides attacks.
REDUCED = (torch.float16, torch.bfloat16)


@contextmanager
def attacked(model: nn.Module, mode: Mode = "eval", *, fold: bool = False) -> Iterator[None]:
    """Hold a model for an attack: the given mode, no weight gradients, float32 without TF32.

    Weights and buffers of half precision are widened to float32, so that what is attacked is the function of these
    weights without the rounding of a half-precision machine. A torch.export program keeps the mode of its export.

    In eval mode the convolutions of corral's own backbones hold their weights with channels last: up to three times
    the images a second on a CPU, for another rounding. A backbone with a foreign module inside, which may count on its
    strides, stays as it is (`takes_channels_last`). With `fold` their BatchNorms are part of the convolutions before
    them (`folded`): a sixth of a ResNet's time less, again for another rounding; a compiled model stays as it is, since
    each change of its modules would compile it again.

    On leaving, also by an exception, every module's training flag, every parameter's memory and `requires_grad` and
    every buffer that could have changed is restored: batch statistics of adversarial images never leak into the running
    ones.

    Args:
        model: any module; `.grad` of its parameters is never touched.
        mode: "eval", or "train" for an adversary that sees batch statistics.
        fold: as above, in eval mode; for what makes many passes, since each entry folds anew.
    """
    flags = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Copies are put in the buffers' places, not written back into them: a graph built before the attack may hold them.
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if mode == "train" or buffer.dtype in REDUCED
    ]
    narrow = [(parameter, parameter.data) for parameter in model.parameters() if parameter.dtype in REDUCED]
    own = list(_own_backbones(model)) if mode == "eval" else []
    kernels = [
        (parameter, parameter.data) for backbone in own for parameter in backbone.parameters() if parameter.dim() == 4
    ]
    folds = ExitStack()
    try:
        for parameter, data in narrow:
            parameter.data = data.float()
        for parameter, _ in kernels:
            # A clone: kernels of one channel count as lying so already, and their results would not.
            parameter.data = parameter.data.clone(memory_format=torch.channels_last)
        for module, name, buffer in buffers:
            setattr(module, name, buffer.float() if buffer.dtype in REDUCED else buffer.clone())
        set_mode(model, mode == "train")
        for backbone in own if fold and not _compiled(model) else ():
            folds.enter_context(folded(backbone))
        for parameter in trainable:
            parameter.requires_grad_(False)
        with full_float32():
            yield
    finally:
        folds.close()
        for parameter, data in (*kernels, *narrow):
            parameter.data = data
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, training in flags:
            module.training = training
        for module, name, buffer in buffers:
            setattr(module, name, buffer)


def _compiled(model: nn.Module) -> bool:
    """Whether torch.compile has taken a module in it, in place or as a wrapper."""
    # The wrapper's class by its name: the module that has it takes a second to import.
    return any(
        type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None
        for module in model.modules()
    )


def _own_backbones(module: nn.Module) -> Iterator[Backbone]:
    """The outermost backbones in a module, without those that hold foreign layers."""
    if not isinstance(module, Backbone):
        for child in module.children():
            yield from _own_backbones(child)
    elif takes_channels_last(module):
        yield module
