"""`import corral` loads what every use of it needs, and nothing else."""

import os
import subprocess
import sys

import pytest

import corral

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
        ("corral", ("torch", "numpy", *LATE)),
        ("corral.register, corral.report, corral.audit.audit, corral.evaluation.certification", LATE),
        ("corral.cli", [name for name in LATE if name != "typer"]),
        ("corral.analysis", LATE),
        ("corral.papers", [name for name in LATE if name in ("sklearn", "scipy", "pooch", "typer", "jinja2")]),
    ],
)
def test_importing_corral_does_not_import_what_few_uses_need(module, late):
    code = CODE.format(module=module, late=tuple(late))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


WITHOUT_TORCH = """
import sys
from corral.cli import main
try:
    main()
finally:
    sys.stderr.write(" ".join(name for name in ("torch", "numpy") if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--help"], "Commands:"),
        (["--version"], f"corral {corral.__version__}"),
        (["train", "--help"], "--data-root"),
        ([], "evaluate\n"),  # of bash's completion
    ],
)
def test_help_version_and_completion_do_not_import_torch(arguments, shown):
    completing = {"_CORRAL_COMPLETE": "complete_bash", "COMP_WORDS": "corral ", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        env=os.environ | ({} if arguments else completing),
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_public_names_that_are_packages_too_stay_functions():
    code = "import corral.report.words, corral.audit.audit, corral, corral.register\nfor name in corral.__all__:\n    "
    code += (
        "value = getattr(corral, name); print(name, type(value).__name__)\nassert {*corral.__all__} <= {*dir(corral)}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kinds = dict(line.split() for line in done.stdout.splitlines())
    assert {name for name, kind in kinds.items() if kind == "function"} >= {"audit", "report", "evaluate", "load"}
    assert kinds["register"] == "Register"
    assert {name for name, kind in kinds.items() if kind == "module"} == {
        *("attacks", "certify", "data", "geometry", "losses", "models"),
    }


def test_a_name_that_corral_does_not_have():
    with pytest.raises(AttributeError, match="module 'corral' has no attribute 'nonsense'"):
        corral.nonsense  # noqa: B018
