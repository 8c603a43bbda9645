"""The headers of safetensors files and JSON documents, read without torch, numpy or pydantic."""

import hashlib
import json
from pathlib import Path
from typing import Any

from corral.checksums import checksum
from corral.errors import CorralError
from corral.reading import MOST_TEXT, check_file, parse_json, read_bytes

REMEDY = "restore it or train again"
# Documents of these versions have no checksum.
FIRST = "-1"


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The metadata that corral wrote into a safetensors file, and the shapes of its tensors; no tensor is read.

    Raises:
        CorralError: missing, truncated, damaged or foreign.
    """
    size = check_file(path, remedy=REMEDY)
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > size - 8:
                raise ValueError("truncated")
            header = parse_json(stream.read(length))
        metadata = parse_json(header.pop("__metadata__", {}).get("corral", "null"))
        shapes = {name: tuple(map(int, tensor["shape"])) for name, tensor in header.items()}
        end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except OSError as error:
        raise CorralError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise CorralError(f"{path}: truncated or not a safetensors file; {REMEDY}") from error
    if 8 + length + end != size:
        raise CorralError(f"{path}: truncated or not a safetensors file; {REMEDY}")
    if not isinstance(metadata, dict):
        raise CorralError(f"{path}: not a corral file (found no corral metadata)")
    return metadata, shapes


def weights_fingerprint(path: Path) -> str:
    """`corral.models.fingerprint` of a model file, whose bytes are those of its tensors."""
    content = read_bytes(path, remedy=REMEDY)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    digest = hashlib.sha256()
    for name in sorted(header):
        begin, end = header[name]["data_offsets"]
        digest.update(name.encode())
        digest.update(content[start + begin : start + end])
    return digest.hexdigest()[:16]


def read_document(path: Path, *, kind: str) -> dict[str, Any]:
    """A JSON document of corral's, of a kind such as "record", with its checksum checked.

    Raises:
        CorralError: missing, damaged, of another kind, or edited since it was written.
    """
    try:
        content = parse_json(read_bytes(path, remedy="make it again", most=MOST_TEXT))
    except ValueError as error:
        raise CorralError(f"{path}: not JSON ({error})") from error
    form = content.get("format") if isinstance(content, dict) else None
    if not isinstance(form, str) or not form.startswith(f"corral-{kind}-"):
        raise CorralError(f"{path}: not a corral {kind}")
    stated = content.pop("sha256", None)
    if stated != checksum(content) and (stated is not None or not form.endswith(FIRST)):
        raise CorralError(f"{path}: edited since it was written, or damaged")
    return dict(content)
