"""Model files by what is in them: TorchScript and torch.export run in their own process, pickles are refused."""

import zipfile
from pathlib import Path
from typing import Literal

import torch

from corral.audit.programs.export_archive import rebuilt_export
from corral.audit.programs.process import Process
from corral.audit.programs.remote import Remote
from corral.audit.programs.script_archive import rebuilt_script
from corral.errors import CorralError

FileKind = Literal["torchscript", "export", "pickle", "other"]
# The first byte of a pickle of protocol 2 or later is PROTO; what torch wrote before 1.6 is a row of such pickles.
PICKLE = b"\x80"
TAR = b"ustar"


def load_file(path: Path, device: torch.device) -> tuple[Remote, Literal["torchscript", "export"], tuple[str, ...]]:
    """Check a TorchScript or torch.export file and load it in a process without rights.

    Args:
        path: the file.
        device: where the model goes.

    Returns:
        The model, what it is, and what a reader should know of its loading.

    Raises:
        CorralError: a pickle (never unpickled), a damaged file, one of another kind, or one that could do more than
            compute.
    """
    kind = kind_of(path)
    if kind in ("torchscript", "export"):
        archive = rebuilt_script(path) if kind == "torchscript" else rebuilt_export(path)
        process = Process(str(path), kind, archive, device)
        words = "a TorchScript file" if kind == "torchscript" else "a torch.export file"
        notes = [f"{words}: it runs in the mode that it was saved in, in a process of its own"]
        if process.still_open:
            notes.append(f"this system could not take away from that process: {', '.join(process.still_open)}")
        return Remote(process), kind, tuple(notes)
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
