"""JSON documents of a fixed form and arrays: written whole, read strictly, one line where a file is of another form."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from corral.errors import CorralError
from corral.files import write_atomically
from corral.reading import MOST_TEXT, parse_json, read_bytes

# A list of numbers over several lines; inside a string there is no line break.
NUMBERS = re.compile(r"\[\n\s*(-?\d[\d.eE+-]*(?:,\s+-?\d[\d.eE+-]*)*)\n\s*\]")


Document = TypeVar("Document", bound=BaseModel)


def document_text(document: BaseModel) -> str:
    """A document as indented JSON, lists of numbers on one line each."""
    return NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", document.model_dump_json(indent=2)) + "\n"


def write_document(document: BaseModel, path: Path) -> None:
    """Write a document as indented JSON, lists of numbers on one line each, atomically."""
    write_atomically(path, document_text(document).encode())


def write_arrays(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write named arrays as a compressed .npz, atomically."""
    stream = io.BytesIO()
    named: Any = arrays  # numpy's stubs take a dictionary's values for its own flags
    np.savez_compressed(stream, **named)
    write_atomically(path, stream.getvalue())


def read_document(path: Path, form: type[Document], *, kind: str, command: str) -> Document:
    """Read and check a document.

    Args:
        path: the file.
        form: what it must be.
        kind: what a message calls that, such as "record".
        command: what makes one, such as "corral evaluate".

    Raises:
        CorralError: the file is missing, not JSON, or not of this form; the message names file and field.
    """
    try:
        content = read_bytes(path, remedy=f"make it with `{command}`", most=MOST_TEXT)
        return form.model_validate(parse_json(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or kind
        raise CorralError(f"{path}: not a corral {kind}, {where}: {first['msg']}") from error
    except ValueError as error:
        raise CorralError(f"{path}: not a corral {kind} ({error}); make it again with `{command}`") from error
