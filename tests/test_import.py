"""`import corral` loads what every use of it needs, and nothing else."""

import subprocess
import sys

import pytest

# Each takes 0.1 s and more, and is of one use only: pages, the command line, fetching, tables, diagnostics.
LATE = (
    "matplotlib",
    "sklearn",
    "scipy",
    "typer",
    "requests",
    "pooch",
    "jinja2",
    "tensorboard",
    "kornia",
    "pyautoattack",
)
CODE = "import sys, {module}; print(*(name for name in {late!r} if name in sys.modules))"


@pytest.mark.parametrize(
    ("module", "late"),
    [
        ("corral", LATE),
        ("corral.cli", [name for name in LATE if name != "typer"]),
        ("corral.analysis", LATE),
        ("corral.papers", [name for name in LATE if name in ("sklearn", "scipy", "pooch", "typer", "jinja2")]),
    ],
)
def test_importing_corral_does_not_import_what_few_uses_need(module, late):
    code = CODE.format(module=module, late=tuple(late))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
