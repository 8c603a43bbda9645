"""`torch.export` files without the parts that could run code: the archive is checked and rebuilt, not loaded.

`torch.export.load` unpickles the example inputs that every file carries, and whatever weight or constant a file marks
as pickled; it evaluates symbolic expressions and guard code, resolves any name below `torch` as an operator, imports
the modules that tree specs name, and executes Python that it writes from the document's names. So a file is read as a
zip and only JSON and raw tensors are kept: the example inputs, guards and metadata are dropped (the batch size and
image shape are read from the graph), anything pickled is refused, and so is all that `export_schema` does not know.
"""

import io
import json
import re
import zipfile
import zlib
from pathlib import Path

from corral.audit.programs.export_schema import RefusedError, plain
from corral.errors import CorralError

REMEDY = "give module:function instead, or export a model of plain tensors"
# What reading a damaged or hostile archive raises.
DAMAGES = (OSError, EOFError, ValueError, RecursionError, NotImplementedError, zipfile.BadZipFile, zlib.error)
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")


def entries_of(source: zipfile.ZipFile, path: Path, remedy: str) -> dict[str, str]:
    """An archive's names by what stands behind its top folder.

    Raises:
        CorralError: two entries of one name; the message ends with the remedy.
    """
    names = source.namelist()
    entries = {name.partition("/")[2]: name for name in names}
    if len(entries) < len(names):
        raise CorralError(f"{path}: two entries of one name in the file; {remedy}")
    return entries


def rebuilt_export(path: Path) -> bytes:
    """The archive with nothing but JSON and raw tensors in it, as `torch.export.load` reads it.

    Raises:
        CorralError: a file that is damaged, or that holds what would have to be unpickled or run.
    """
    clean = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(clean, "w", zipfile.ZIP_STORED) as target:
            entries = entries_of(source, path, "export it again")
            if "models/model.json" not in entries:
                raise CorralError(
                    f"{path}: no exported program in the format of torch >= 2.8 in it; export it again with "
                    "torch.export.save"
                )
            for entry, name in sorted(entries.items()):
                content = _kept(path, entry, source.read(name))
                if content is not None:
                    target.writestr(f"archive/{entry}", content)
    except RefusedError as error:
        raise CorralError(f"{path}: {error} is none that torch.export writes; {REMEDY}") from error
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        EOFError,
        RecursionError,
        NotImplementedError,
    ) as error:
        raise CorralError(f"{path}: truncated or damaged ({error}); export it again") from error
    return clean.getvalue()


def _kept(path: Path, entry: str, content: bytes) -> bytes | None:
    """What of one entry goes into the rebuilt archive; None drops it (compiled libraries, other programs)."""
    if entry == "models/model.json":
        return json.dumps(plain("ExportedProgram", json.loads(content))).encode()
    if entry == "data/sample_inputs/model.pt":
        return b""
    if entry in CONFIGS:
        config = plain("PayloadConfig", json.loads(content))
        for name, payload in config.get("config", {}).items():
            if payload.get("use_pickle") or not re.fullmatch(r"(weight|tensor)_\d+", str(payload.get("path_name"))):
                raise CorralError(f"{path}: {name} is pickled, and weight files are never unpickled; {REMEDY}")
        return json.dumps(config).encode()
    kept = entry in ("archive_format", "archive_version", "byteorder", ".data/version")
    return content if kept or re.fullmatch(r"data/(weights/weight|constants/tensor)_\d+", entry) else None
