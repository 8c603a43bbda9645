"""A checked archive becomes a module; in the process without rights, and nowhere else."""

import io
import logging
import warnings
from typing import Any

import torch
from torch import nn

from corral.audit.programs.compiled import CompiledProgram
from corral.errors import CorralError


def load_program(
    kind: str, archive: bytes, device: torch.device
) -> tuple[CompiledProgram, tuple[int | None, ...] | None]:
    """Load a program that was checked and rebuilt.

    Args:
        kind: "export" or "torchscript".
        archive: the rebuilt file.
        device: where the program goes.

    Returns:
        The program and the (C, H, W) that it was traced for, None for what may vary; None where nothing is known.

    Raises:
        CorralError: a program that takes something else than one batch of images.
        Exception: whatever torch's readers raise.
    """
    logging.getLogger("torch.export").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            return _script(archive, device), None
        return _export(archive, device)


def _script(archive: bytes, device: torch.device) -> CompiledProgram:
    script: nn.Module = torch.jit.load(io.BytesIO(archive), map_location=device)  # type: ignore[no-untyped-call]
    # A frozen program has no mode left to set.
    if hasattr(script, "training"):
        script.eval()
    return CompiledProgram(script)


def _export(archive: bytes, device: torch.device) -> tuple[CompiledProgram, tuple[int | None, ...]]:
    program = torch.export.load(io.BytesIO(archive))
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    shape = _image_shape(program)
    return CompiledProgram(program.module(), batch_size=shape[0]), shape[1:]


def _image_shape(program: Any) -> tuple[int | None, ...]:
    """(N, C, H, W) that the program was traced for, None where it may vary."""
    inputs = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    found = [nodes[name].meta.get("val") for name in inputs if name in nodes]
    if len(inputs) != 1 or len(found) != 1 or not isinstance(found[0], torch.Tensor):
        raise CorralError(f"the program takes {len(inputs)} inputs, expected one batch of images; wrap it")
    return tuple(int(size) if isinstance(size, int) else None for size in found[0].shape)
