"""Model files without the parts that could run code: an archive is checked and rebuilt before torch loads it.

`torch.export.load` unpickles the example inputs that every file carries, and whatever weight or constant a file marks
as pickled; it evaluates symbolic expressions and guard code, resolves any name below `torch` as an operator, imports
the modules that tree specs name, and executes Python that it writes from the document's names. So only JSON and raw
tensors are kept: the example inputs, guards and metadata are dropped (the batch size and image shape are read from the
graph), anything pickled is refused, and so is all that `export_schema` does not know.

`torch.jit.load` compiles the code of a file and runs `__setstate__` of its classes; a program can call every operator
of torch, and some of them write files. So the code is checked as text and the pickles as lists of steps
(`script_check`); debug records, byte code and formats of old torch are dropped.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from corral.errors import CorralError
from corral.reading import opened_zip, parse_json
from corral.targets.programs.export_schema import RefusedError, plain
from corral.targets.programs.script_check import unsafe, unsafe_pickle

EXPORT_REMEDY = "give module:function instead, or export a model of plain tensors"
SCRIPT_REMEDY = "give module:function instead, or a program of torch's tensor operators"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
PICKLES = ("data.pkl", "constants.pkl")

Read = Callable[[], bytes]


def rebuilt_export(path: Path) -> bytes:
    """The archive of a `torch.export` file with nothing but JSON and raw tensors in it.

    Raises:
        CorralError: a file that is damaged, or that holds what would have to be unpickled or run.
    """
    try:
        return _rebuilt(path, _kept_of_export, "export it again", needed="models/model.json")
    except RefusedError as error:
        raise CorralError(f"{path}: {error} is none that torch.export writes; {EXPORT_REMEDY}") from error


def rebuilt_script(path: Path) -> bytes:
    """The archive of a TorchScript file with nothing but checked code, checked pickles and raw tensors in it.

    Raises:
        CorralError: a file that is damaged, or that calls what does more than compute.
    """
    return _rebuilt(path, _kept_of_script, "save it again")


def _rebuilt(path: Path, kept: Callable[[Path, str, Read], bytes | None], again: str, *, needed: str = "") -> bytes:
    """A zip of what is kept of each entry, None for nothing; `again` is the remedy for damages."""
    clean = io.BytesIO()
    opened = opened_zip(path, problem="truncated or damaged", remedy=again)
    with opened as (source, members), zipfile.ZipFile(clean, "w", zipfile.ZIP_STORED) as target:
        # What torch looks for is named behind the archive's top folder.
        entries = {member.filename.partition("/")[2]: member for member in members}
        if len(entries) < len(members):
            raise CorralError(f"{path}: two entries of one name in the file; {again}")
        if needed and needed not in entries:
            raise CorralError(
                f"{path}: no exported program in the format of torch >= 2.8 in it; export it again with "
                "torch.export.save"
            )
        for entry, member in sorted(entries.items()):
            content = kept(path, entry, partial(source.read, member))
            if content is not None:
                target.writestr(f"archive/{entry}", content)
    return clean.getvalue()


def _kept_of_export(path: Path, entry: str, read: Read) -> bytes | None:
    content = read()  # also of what is dropped: a damaged entry is a damaged file
    if entry == "models/model.json":
        return json.dumps(plain("ExportedProgram", parse_json(content))).encode()
    if entry == "data/sample_inputs/model.pt":
        return b""
    if entry in CONFIGS:
        config = plain("PayloadConfig", parse_json(content))
        for name, payload in config.get("config", {}).items():
            if payload.get("use_pickle") or not re.fullmatch(r"(weight|tensor)_\d+", str(payload.get("path_name"))):
                raise CorralError(f"{path}: {name} is pickled, and weight files are never unpickled; {EXPORT_REMEDY}")
        return json.dumps(config).encode()
    plain_entry = entry in ("archive_format", "archive_version", "byteorder", ".data/version")
    return content if plain_entry or re.fullmatch(r"data/(weights/weight|constants/tensor)_\d+", entry) else None


def _kept_of_script(path: Path, entry: str, read: Read) -> bytes | None:
    if re.fullmatch(r"(data|constants)/\d+", entry) or entry in ("version", ".data/version", "byteorder"):
        return read()
    if entry not in PICKLES and not re.fullmatch(r"code/.*\.py", entry):
        return None
    content = read()
    found = unsafe_pickle(content) if entry in PICKLES else unsafe(content.decode())
    if found is not None:
        raise CorralError(f"{path}: {entry} has {found}, which may do more than compute; {SCRIPT_REMEDY}")
    return content
