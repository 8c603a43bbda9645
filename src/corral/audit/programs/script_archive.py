"""TorchScript files without what could do more than compute: checked and rebuilt, not loaded.

`torch.jit.load` compiles the code of a file and runs `__setstate__` of its classes; a program can call every operator
of torch, and some of them write files. So the code is checked as text, the pickles as lists of steps, and the archive
is rebuilt from code, pickles and raw tensors alone: debug records, byte code and formats of old torch are dropped.
"""

import io
import re
import zipfile
from pathlib import Path

from corral.audit.programs.export_archive import DAMAGES, entries_of
from corral.audit.programs.script_pickle import unsafe_pickle
from corral.audit.programs.script_source import unsafe
from corral.errors import CorralError

REMEDY = "give module:function instead, or a program of torch's tensor operators"
TENSORS = re.compile(r"(data|constants)/\d+")
CODE = re.compile(r"code/.*\.py")
PICKLES = ("data.pkl", "constants.pkl")


def rebuilt_script(path: Path) -> bytes:
    """The archive with nothing but checked code, checked pickles and raw tensors in it.

    Raises:
        CorralError: a file that is damaged, or that calls what does more than compute.
    """
    clean = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(clean, "w", zipfile.ZIP_STORED) as target:
            entries = entries_of(source, path, "save it again")
            for entry, name in sorted(entries.items()):
                if TENSORS.fullmatch(entry) or entry in ("version", ".data/version", "byteorder"):
                    target.writestr(f"archive/{entry}", source.read(name))
                elif CODE.fullmatch(entry) or entry in PICKLES:
                    content = source.read(name)
                    found = unsafe_pickle(content) if entry in PICKLES else unsafe(content.decode())
                    if found is not None:
                        raise CorralError(f"{path}: {entry} has {found}, which may do more than compute; {REMEDY}")
                    target.writestr(f"archive/{entry}", content)
    except DAMAGES as error:
        raise CorralError(f"{path}: truncated or damaged ({error}); save it again") from error
    return clean.getvalue()
