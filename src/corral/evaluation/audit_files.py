"""Model files by what is in them: TorchScript and torch.export are loaded, pickles are recognised and refused."""

import warnings
import zipfile
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from corral.errors import CorralError
from corral.evaluation.audit_export import load_export
from corral.evaluation.audit_sealed import Sealed

FileKind = Literal["torchscript", "export", "pickle", "other"]
# The first byte of a pickle of protocol 2 or later is PROTO; what torch wrote before 1.6 is a row of such pickles.
PICKLE = b"\x80"
TAR = b"ustar"


def load_file(path: Path, device: torch.device) -> tuple[Sealed, str]:
    """Load a TorchScript or torch.export file.

    Args:
        path: the file.
        device: where the model goes.

    Returns:
        The model and what it is, in words.

    Raises:
        CorralError: a pickle (never unpickled), a damaged file or one of another kind.
    """
    kind = kind_of(path)
    if kind == "torchscript":
        return _load_script(path, device), "a TorchScript file"
    if kind == "export":
        return load_export(path, device), "a torch.export file"
    if kind == "pickle":
        raise CorralError(
            f"{path}: a pickle (torch.save), and weight files are never unpickled; give file.py:function that builds "
            "the model and loads its weights, or save the model with torch.jit.save or torch.export.save"
        )
    raise CorralError(
        f"{path}: neither TorchScript, torch.export nor a corral run; give one of them, or file.py:function that "
        "builds the model"
    )


def kind_of(path: Path) -> FileKind:
    """What a file is, by its content alone; nothing in it is run.

    Raises:
        CorralError: the file cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(512)
        if not zipfile.is_zipfile(path):
            return "pickle" if head[:1] == PICKLE or head[257:262] == TAR else "other"
        with zipfile.ZipFile(path) as archive:
            entries = {name.partition("/")[2] for name in archive.namelist()} | set(archive.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise CorralError(f"{path}: cannot be read ({error}); give a model file") from error
    if "archive_format" in entries or "serialized_exported_program.json" in entries:
        return "export"
    if "constants.pkl" in entries and any(entry.startswith("code/") for entry in entries):
        return "torchscript"
    return "pickle" if "data.pkl" in entries else "other"


def _load_script(path: Path, device: torch.device) -> Sealed:
    # TorchScript's own reader, in C++, makes tensors and script classes only; it imports and calls no Python.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            script: nn.Module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise CorralError(f"{path}: TorchScript cannot read it ({reason}); save it again with this torch") from error
    # A frozen program has no mode left to set.
    if hasattr(script, "training"):
        script.eval()
    return Sealed(script)
