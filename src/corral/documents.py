"""JSON documents of a fixed form and arrays: written whole, read strictly, one line where a file is of another form."""

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from corral.checksums import checksum, edited, edited_above
from corral.errors import CorralError
from corral.files import write_atomically
from corral.reading import MOST_TEXT, parse_json, read_bytes
from corral.strict import Frozen

# A list of numbers over several lines; inside a string there is no line break.
NUMBERS = re.compile(r"\[\n\s*(-?\d[\d.eE+-]*(?:,\s+-?\d[\d.eE+-]*)*)\n\s*\]")
CHECKSUM = "sha256"


class Document(Frozen):
    """What is written as a JSON document, with a checksum of its content beside its fields.

    Attributes:
        format: kind and version; the first version of each had no checksum.
        edited: files that were edited since they were written and accepted all the same, this one or what it was made
            from.
    """

    format: str
    edited: tuple[str, ...] = ()


AnyDocument = TypeVar("AnyDocument", bound=Document)


def document_text(document: Document) -> str:
    """A document as indented JSON with its checksum, lists of numbers on one line each."""
    text = NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", document.model_dump_json(indent=2))
    return text.removesuffix("\n}") + f',\n  "{CHECKSUM}": "{checksum(json.loads(text))}"\n}}\n'


def write_document(document: AnyDocument, path: Path) -> AnyDocument:
    """Write a document as `document_text`, atomically; returns it, naming the accepted edits above."""
    names = tuple(dict.fromkeys([*document.edited, *edited_above(path)]))
    written = document.model_copy(update={"edited": names})
    write_atomically(path, document_text(written).encode())
    return written


def write_arrays(arrays: Mapping[str, NDArray[Any]], path: Path) -> str:
    """Write named arrays as a compressed .npz, atomically; returns the file's SHA-256."""
    stream = io.BytesIO()
    named: Any = arrays  # numpy's stubs take a dictionary's values for its own flags
    np.savez_compressed(stream, **named)
    write_atomically(path, stream.getvalue())
    return hashlib.sha256(stream.getvalue()).hexdigest()


def read_document(path: Path, form: type[AnyDocument], *, kind: str, command: str) -> AnyDocument:
    """Read and check a document.

    Args:
        path: the file.
        form: what it must be.
        kind: what a message calls that, such as "record".
        command: what makes one, such as "corral evaluate".

    Raises:
        CorralError: the file is missing, not JSON, not of this form, or edited since it was written and not accepted
            (`accept_edited`); the message names file and field.
    """
    try:
        content = parse_json(read_bytes(path, remedy=f"make it with `{command}`", most=MOST_TEXT))
        stated = content.pop(CHECKSUM, None) if isinstance(content, dict) else None
        document = form.model_validate(content)
        if stated != checksum(content) and (stated is not None or not document.format.endswith("-1")):
            edited(path, remedy=f"delete it and make it again with `{command}`")
            document = document.model_copy(update={"edited": (*document.edited, path.name)})
        return document
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or kind
        raise CorralError(f"{path}: not a corral {kind}, {where}: {first['msg']}") from error
    except ValueError as error:
        raise CorralError(f"{path}: not a corral {kind} ({error}); make it again with `{command}`") from error
