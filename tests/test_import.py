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
# What a process imports in turn, and what must not have been imported by then.
TURNS = (
    (
        ("corral", ("torch", "numpy", *LATE)),
        ("corral.register, corral.report, corral.audit.audit, corral.evaluation.certification, corral.analysis", LATE),
        ("corral.papers", ("sklearn", "scipy", "pooch", "typer", "jinja2")),
    ),
    (("corral.cli", tuple(name for name in LATE if name != "typer")),),
)


@pytest.mark.parametrize("turns", TURNS)
def test_importing_corral_does_not_import_what_few_uses_need(turns):
    lines = ["import sys"]
    for modules, late in turns:
        lines.append(f"import {modules}; print(*(name for name in {late!r} if name in sys.modules))")
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [""] * len(turns)


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
        (["recipes"], "corral recipes NAME\n"),
        (["runs", os.path.dirname(__file__) + "/geometry"], "no runs below"),
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


VERBS = """
import pickle
{first}
import corral, inspect
from corral.audit.audit import audit
from corral.evaluation.certification import certify_run
from corral.report.runs.page import render, report
for name, function in (("audit", audit), ("certify", certify_run), ("report", report)):
    verb = getattr(corral, name)
    assert inspect.signature(verb) == inspect.signature(function) and verb.__doc__ == function.__doc__
    assert pickle.loads(pickle.dumps(verb)) is verb
    try:
        verb(["/nowhere"], out="page.html") if name == "report" else verb("/nowhere")
    except corral.errors.UsageError as error:
        print(name, error)
import corral.report, corral.certify as certify, corral.report.words as words
assert corral.report.render is render and certify.nearest_radius is corral.certify.nearest_radius
assert corral.report.words is words and corral.audit.record.AuditRecord
for name in corral.__all__:
    value = getattr(corral, name)
    assert callable(value) or inspect.ismodule(value) or name == "__version__", name
assert dir(corral) == sorted(corral.__all__) and len(set(dir(corral))) == len(dir(corral))
assert isinstance(corral.register, corral.register.__class__) and not inspect.ismodule(corral.register)
"""


@pytest.mark.parametrize(
    "first", ["import corral", "import corral.report.words, corral.register", "from corral.certify import soft_radius"]
)
def test_verbs_are_functions_and_packages_whatever_was_imported_before(first):
    code = VERBS.format(first=first)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["audit", "target"],
        ["certify", "/nowhere:"],
        ["report", "/nowhere:"],
    ]


def test_the_other_verbs_are_functions():
    names = ("analyze", "diagnose", "evaluate", "export", "load", "reproduce", "train")
    assert all(type(getattr(corral, name)).__name__ == "function" for name in names)
    assert {"audit", "certify", "report", *names} <= {*dir(corral)}


def test_a_name_that_corral_does_not_have():
    with pytest.raises(AttributeError, match="module 'corral' has no attribute 'nonsense'"):
        corral.nonsense  # noqa: B018
