"""Run notebooks and write their outputs; tests/test_notebooks.py runs them and compares.

usage: OMP_NUM_THREADS=1 python scripts/notebooks.py notebooks/*.ipynb      # `make notebooks`

The code cells run in one namespace of this process, a cell's last expression is shown as Jupyter shows it, and nothing
of time or place is written. nbclient with ipykernel gives the same text by 33 packages more (68 MB), and takes 48 s of
a core for the four notebooks instead of 35 s, because every kernel starts and imports torch anew (torch 2.13, one
thread, a loaded machine); CI has 60 s for all of them.
"""

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


def run(path: Path) -> list[list[Cell]]:
    """Run a notebook's code cells in order; returns the outputs of each.

    Raises:
        Exception: whatever a cell raises.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    return [
        _outputs("".join(cell["source"]), f"{path.name}[{place}]", names, place) for place, cell in enumerate(cells, 1)
    ]


def _outputs(source: str, name: str, names: dict[str, Any], place: int) -> list[Cell]:
    """What one cell prints, and its last expression's value."""
    body, last = ast.parse(source, name), None
    if body.body and isinstance(body.body[-1], ast.Expr):
        last = ast.Expression(body.body.pop().value)  # type: ignore[attr-defined]
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(body, name, "exec"), names)
        if last is not None:
            value = eval(compile(last, name, "eval"), names)
    found: list[Cell] = []
    if printed.getvalue():
        found.append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
    if value is not None:
        found.append({"data": _data(value), "execution_count": place, "metadata": {}, "output_type": "execute_result"})
    return found


def _data(value: Any) -> dict[str, Any]:
    """A value as Jupyter has it: text, and of a figure of matplotlib a picture too."""
    if hasattr(value, "savefig"):
        picture = io.BytesIO()
        value.savefig(picture, format="png", dpi=80, metadata={"Software": None})
        return {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": _lines(repr(value))}
    return {"text/plain": _lines(repr(value))}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def write(path: Path) -> None:
    """Run a notebook and write its outputs into it."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    outputs = iter(run(path))
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell["outputs"], cell["execution_count"], cell["metadata"] = next(outputs), count, {}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for given in sys.argv[1:]:
        write(Path(given))
        print(f"ran {given}")
