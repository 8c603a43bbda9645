"""The model to audit: Python code, a TorchScript or torch.export file, or a corral run."""

import zipfile
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from corral.errors import CorralError, UsageError
from corral.files import AnyPath, user_path
from corral.models.backbones import BackboneLike
from corral.models.saved import is_saved_classifier, load_classifier
from corral.reading import check_file, opened_zip
from corral.records import Kind
from corral.targets.programs.archive import rebuilt_export, rebuilt_script
from corral.targets.programs.compiled import CompiledProgram
from corral.targets.programs.process import Process
from corral.targets.programs.remote import Remote
from corral.targets.python import load_python
from corral.training import RunInfo, load_model
from corral.zoo import located

# The first byte of a pickle of protocol 2 or later is PROTO; what torch wrote before 1.6 is a row of such pickles.
PICKLE = b"\x80"
TAR = b"ustar"


@dataclass(frozen=True)
class Target:
    """A model to audit by the user's name for it, on the device; Python code decides its mode.

    `info` is there for a corral run, `notes` say what a reader should know of the loading.
    """

    name: str
    kind: Kind
    model: nn.Module
    info: RunInfo | None = None
    notes: tuple[str, ...] = ()


def load_target(
    target: AnyPath | nn.Module,
    *,
    path: str | Path | None = None,
    backbone: BackboneLike | None = None,
    device: torch.device | str = "cpu",
) -> Target:
    """Load a model to audit.

    Args:
        target: a run folder, its model.safetensors or a model that comes with corral ("corral/digits-at"); a file of
            `Classifier.save`; a TorchScript or torch.export file; or "module:function" with a .py file or a dotted
            name.
        path: the folder that Python code is imported from; default a file's own folder, the current one for a name.
        backbone: a run's or a saved classifier's own, where it is a user's and is not imported here.
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
    target = fspath(target)
    place = located(user_path(target))
    folder = None if path is None else user_path(path)
    if is_saved_classifier(place):
        return Target(target, "classifier", load_classifier(place, device=device, backbone=backbone))
    if place.is_dir() or place.suffix == ".safetensors":
        model, _, info = load_model(place, device=device, backbone=backbone)
        return Target(target, "run", model, info)
    if place.is_file() and place.suffix == ".py":
        raise UsageError(f"target {target} needs the function that makes the model: {target}:function")
    if place.exists():
        return _from_file(target, place, device)
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


def _from_file(name: str, path: Path, device: torch.device) -> Target:
    """A TorchScript or torch.export file, checked and loaded in a process without rights; pickles are refused."""
    kind = _kind_of(path)
    if kind == "torchscript":
        archive, words = rebuilt_script(path), "a TorchScript file"
    elif kind == "export":
        archive, words = rebuilt_export(path), "a torch.export file"
    elif kind == "pickle":
        raise CorralError(
            f"{path}: a pickle (torch.save), and weight files are never unpickled; give file.py:function that builds "
            "the model and loads its weights, or save the model with torch.jit.save or torch.export.save"
        )
    else:
        raise CorralError(
            f"{path}: neither TorchScript, torch.export nor a corral run; give one of them, or file.py:function that "
            "builds the model"
        )
    process = Process(str(path), kind, archive, device)
    notes = [f"{words}: it runs in the mode that it was saved in, in a process of its own"]
    if process.still_open:
        notes.append(f"this system could not take away from that process: {', '.join(process.still_open)}")
    return Target(name, kind, Remote(process), notes=tuple(notes))


def _kind_of(path: Path) -> Literal["torchscript", "export", "pickle", "other"]:
    """What a file is, by its content alone; nothing in it is run."""
    remedy = "give a model file"
    check_file(path, remedy=remedy)
    try:
        with open(path, "rb") as stream:
            head = stream.read(512)
        if not zipfile.is_zipfile(path):
            return "pickle" if head[:1] == PICKLE or head[257:262] == TAR else "other"
    except OSError as error:
        raise CorralError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except zipfile.BadZipFile as error:  # an archive it is, with an end that says what cannot be
        raise CorralError(f"{path}: truncated or damaged ({error}); {remedy}") from error
    with opened_zip(path, problem="truncated or damaged", remedy=remedy) as (_, members):
        names = {member.filename for member in members}
    entries = {name.partition("/")[2] for name in names} | names
    if "archive_format" in entries or "serialized_exported_program.json" in entries:
        return "export"
    if "constants.pkl" in entries and any(entry.startswith("code/") for entry in entries):
        return "torchscript"
    return "pickle" if "data.pkl" in entries else "other"


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
