"""The state a model is attacked in, and its restoration."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn

from corral.precision import full_float32

Mode = Literal["eval", "train"]


@contextmanager
def attacked(model: nn.Module, mode: Mode = "eval") -> Iterator[None]:
    """Hold a model for an attack: the given mode, no weight gradients, float32 without TF32.

    On leaving, also by an exception, every module's training flag, every parameter's `requires_grad` and (mode
    "train") every buffer is what it was: batch statistics of adversarial images never leak into the running ones.

    Args:
        model: any module; `.grad` of its parameters is never touched.
        mode: "eval", or "train" for an adversary that sees batch statistics.
    """
    flags = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Copies are put in the buffers' places, not written back into them: a graph built before the attack may hold them.
    buffers = [
        (module, name, buffer)
        for module in (model.modules() if mode == "train" else ())
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        for module, name, buffer in buffers:
            setattr(module, name, buffer.clone())
        model.train(mode == "train")
        for parameter in trainable:
            parameter.requires_grad_(False)
        with full_float32():
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, training in flags:
            module.training = training
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
