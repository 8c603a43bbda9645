"""The model to audit: Python code, a TorchScript or torch.export file, or a corral run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from corral.audit.programs import CompiledProgram, load_file
from corral.audit.python import load_python
from corral.errors import CorralError, UsageError
from corral.training import RunInfo, load_model

Kind = Literal["run", "python", "torchscript", "export", "module"]


@dataclass(frozen=True)
class Target:
    """A model to audit.

    Attributes:
        name: what the user called it.
        kind: what it is.
        model: images to logits, on the device; of Python code in the mode that the code left it in.
        info: how the run was made, where it is a corral run.
        notes: what a reader should know of the loading.
    """

    name: str
    kind: Kind
    model: nn.Module
    info: RunInfo | None = None
    notes: tuple[str, ...] = ()


def load_target(
    target: str | nn.Module, *, path: str | Path | None = None, device: torch.device | str = "cpu"
) -> Target:
    """Load a model to audit.

    Args:
        target: a run folder or its model.safetensors; a TorchScript or torch.export file; or "module:function" with a
            .py file or a dotted name.
        path: the folder that Python code is imported from; default a file's own folder, the current one for a name.
        device: where the model goes.

    Returns:
        The model, loaded. No weight file is ever unpickled; code is imported only for a "module:function" target.

    Raises:
        UsageError: a target of no known form.
        CorralError: the target is absent or cannot be loaded.
    """
    device = torch.device(device)
    if isinstance(target, nn.Module):
        return Target(type(target).__name__, "module", _plain(target.to(device)))
    place = Path(target).expanduser()
    folder = None if path is None else Path(path).expanduser()
    if place.is_dir() or place.suffix == ".safetensors":
        model, _, info = load_model(place, device=device)
        return Target(target, "run", model, info)
    if place.is_file() and place.suffix == ".py":
        raise UsageError(f"target {target} needs the function that makes the model: {target}:function")
    if place.is_file():
        program, kind, notes = load_file(place, device)
        return Target(target, kind, program, notes=notes)
    if ":" in target:
        made = load_python(target, folder)
        try:
            return Target(target, "python", _plain(made.to(device)))
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise CorralError(f"{target}: the model cannot go to {device} ({reason}); return it on the CPU") from error
    raise UsageError(
        f"target {target!r}: no such file or run; give a run folder, a TorchScript or torch.export file, or "
        "file.py:function"
    )


def _plain(model: nn.Module) -> nn.Module:
    """The model, behind a plain module where it is or holds a compiled program, which has no modes to set."""
    if isinstance(model, torch.jit.ScriptModule):
        return CompiledProgram(model)
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
    except NotImplementedError:
        return CompiledProgram(model)
    finally:
        for module, training in flags:
            module.training = training
    return model
