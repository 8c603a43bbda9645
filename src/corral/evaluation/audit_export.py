"""`torch.export` files without the parts that could run code: the archive is checked, rebuilt, then loaded.

`torch.export.load` unpickles the example inputs that every file carries, and whatever weight or constant a file marks
as pickled; it evaluates symbolic expressions and guard code, and resolves any name below `torch` as an operator. So a
file is read as a zip and only JSON and raw tensors are kept: the example inputs and guards are dropped (the batch size
and image shape are read from the graph), anything pickled is refused, operators and expressions must be plain ones.
"""

import io
import json
import logging
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from corral.errors import CorralError
from corral.evaluation.audit_sealed import Sealed

REMEDY = "give module:function instead, or export a model of plain tensors"
OPERATORS = re.compile(r"torch\.ops\.[a-z]\w*\.\w+(\.\w+)?|torch\.sym_\w+|_operator\.[a-z]\w*|math\.[a-z]\w*")
NOT_CALLED = re.compile(
    r"_operator\.(attrgetter|methodcaller|call|itemgetter)|torch\.ops\.(load_library|import_module)\..*|.*from_file.*"
)
NAME = re.compile(r"[\w.\-\[\]]*")
SYMBOL = re.compile(r"[a-z]{1,2}\d+")
WORD = re.compile(r"[A-Za-z_]\w*")
EXPRESSION = re.compile(r"(?:[A-Za-z_]\w*|'[a-z]{1,2}\d+'|\d+(?:\.\d+)?|[\s(),=+*/<>!&|~-])*")
# What torch writes into symbolic sizes, and nothing that could be called to another end.
FUNCTIONS = re.compile(
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Max|Min|Eq|Ne|Lt|Le|Gt|Ge|And|"
    "Or|Not|Abs|ModularIndexing|Where|IntTrueDiv|FloatTrueDiv|ToFloat|TruncToInt|FloorToInt|CeilToInt|Identity|"
    "positive|integer|nonnegative|nonzero|real|True|False|oo|int_oo"
)


def load_export(path: Path, device: torch.device) -> Sealed:
    """Read a `torch.export` file; nothing in it is unpickled.

    Args:
        path: the .pt2 file.
        device: where the program goes.

    Raises:
        CorralError: a damaged file, one of an older format, or one with pickled or unknown parts.
    """
    archive = rebuilt(path)
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)  # torch logs a traceback of its own beside the exception
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(archive)
            if device.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, str(device))
            module = program.module()
    except Exception as error:  # a foreign file can fail anywhere in torch's reader
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        raise CorralError(f"{path}: torch.export cannot read it ({reason}); export it again with this torch") from error
    finally:
        log.setLevel(level)
    shape = _image_shape(path, program)
    return Sealed(module, shape=shape[1:], batch_size=shape[0])


def rebuilt(path: Path) -> io.BytesIO:
    """The archive with nothing but JSON and raw tensors in it, as `torch.export.load` reads it.

    Raises:
        CorralError: a file that is damaged, or that holds what would have to be unpickled or run.
    """
    clean = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(clean, "w", zipfile.ZIP_STORED) as target:
            names = source.namelist()
            if len(set(names)) < len(names):
                raise CorralError(f"{path}: two entries of one name in the file; export it again")
            entries = {name.partition("/")[2]: name for name in names}
            if "models/model.json" not in entries:
                raise CorralError(
                    f"{path}: no exported program in the format of torch >= 2.8 in it; export it again with "
                    "torch.export.save"
                )
            for entry, name in sorted(entries.items()):
                content = _kept(path, entry, source.read(name))
                if content is not None:
                    target.writestr(f"archive/{entry}", content)
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, RecursionError) as error:
        raise CorralError(f"{path}: truncated or damaged ({error}); export it again") from error
    clean.seek(0)
    return clean


def _kept(path: Path, entry: str, content: bytes) -> bytes | None:
    """What of one entry goes into the rebuilt archive; None drops it (compiled libraries, other programs)."""
    if entry == "models/model.json":
        program = json.loads(content)
        program["guards_code"] = []
        _check(path, program)
        return json.dumps(program).encode()
    if entry == "data/sample_inputs/model.pt":
        return b""
    if entry in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
        for name, payload in json.loads(content)["config"].items():
            if payload["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", payload["path_name"]):
                raise CorralError(f"{path}: {name} is pickled, and weight files are never unpickled; {REMEDY}")
        return content
    kept = entry in ("archive_format", "archive_version", "byteorder", ".data/version")
    return content if kept or re.fullmatch(r"data/(weights/weight|constants/tensor)_\d+", entry) else None


def _check(path: Path, part: Any) -> None:
    """Refuse operators outside torch's own, and names and expressions that are more than names and expressions."""
    if isinstance(part, list):
        for item in part:
            _check(path, item)
    if not isinstance(part, dict):
        return
    for key, value in part.items():
        if isinstance(value, str):
            plain = (
                _plain_operator(value) if key == "target" else _plain_expression(value) if key == "expr_str" else True
            )
            if not plain or (key == "name" and not NAME.fullmatch(value)):
                raise CorralError(f"{path}: {key} {value[:60]!r} is none that torch.export writes; {REMEDY}")
        _check(path, value)


def _plain_operator(text: str) -> bool:
    # Targets without a dot are names of submodules and of a custom object's methods.
    return bool(OPERATORS.fullmatch(text) and not NOT_CALLED.fullmatch(text) and "__" not in text)


def _plain_expression(text: str) -> bool:
    words = WORD.findall(text)
    return bool(EXPRESSION.fullmatch(text)) and all(
        FUNCTIONS.fullmatch(word) or SYMBOL.fullmatch(word) for word in words
    )


def _image_shape(path: Path, program: Any) -> tuple[int | None, ...]:
    """(N, C, H, W) that the program was traced for, None where it may vary."""
    inputs = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    found = [nodes[name].meta.get("val") for name in inputs if name in nodes]
    if len(inputs) != 1 or len(found) != 1 or not isinstance(found[0], torch.Tensor):
        raise CorralError(f"{path}: the program takes {len(inputs)} inputs, expected one batch of images; wrap it")
    return tuple(int(size) if isinstance(size, int) else None for size in found[0].shape)
