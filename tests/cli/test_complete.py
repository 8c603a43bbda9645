import os
import subprocess
import sys
import time
from importlib import import_module

import pytest
from typer.testing import CliRunner

from corral import cli
from corral.cli.complete import run_folders
from corral.cli.names import NAMES, REGISTRIES, known
from corral.papers import shipped_tables
from corral.training import shipped_recipes


@pytest.fixture
def tab():
    """What a TAB behind a line offers, by the script that bash runs."""

    def offered(line):
        words = line.split(" ")
        env = {"_CORRAL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        result = CliRunner().invoke(cli.app, [], prog_name="corral", env=env)
        assert result.exit_code == 0, result.output
        return result.stdout.split()

    return offered


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The current folder: two runs, one with a head that was fitted to it, and what is no run."""
    monkeypatch.chdir(tmp_path)
    for file in (
        *("runs/a/recipe.toml", "runs/a/linear/a-slf/model.safetensors", "runs/a/records/quick.json"),
        *("runs/deep/b/model.safetensors", "runs/.hidden/recipe.toml", "notes/text"),
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    return tmp_path


@pytest.mark.parametrize("noun", NAMES)
def test_the_index_has_the_names_of_the_registry(noun):
    module, attribute, group = REGISTRIES[noun]
    registry = getattr(import_module(module), attribute)
    assert registry.group == group
    ours = {name for name, thing in registry.items() if _module(thing).startswith("corral.")}
    assert ours <= {*NAMES[noun]}
    assert all(name in registry for name in NAMES[noun])
    assert len({*NAMES[noun]}) == len(NAMES[noun])


def _module(thing):
    """Where what is registered comes from; other tests register too."""
    for attribute in ("measure", "loader", "options_of", "open", "attacks"):
        thing = getattr(thing, attribute, thing)
    return getattr(thing, "__module__", "corral.")


def test_recipes_and_tables_are_their_files():
    assert known("recipe") == list(shipped_recipes())
    assert known("table") == list(shipped_tables())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("corral tra", ["train"]),
        ("corral train corral", ["corral", "corral-toward"]),
        ("corral train at --data mn", ["mnist"]),
        ("corral evaluate x --protocol a", ["autoattack", "adaptive"]),
        ("corral evaluate x --attack fgs", ["fgsm"]),
        ("corral analyze x --only co", ["cosine", "compactness"]),
        ("corral audit x --norm L", ["Linf", "L2", "L1"]),
        ("corral reproduce clustr-table1 --scale s", ["smoke", "small", "short"]),
        ("corral recipes mat-", ["mat-bibo", "mat-ftc", "mat-so"]),
        ("corral evaluate ", ["runs/a", "runs/a/linear/a-slf", "runs/deep/b"]),
        ("corral evaluate runs/a runs/", ["runs/a/linear/a-slf", "runs/deep/b"]),
        ("corral export ./runs/d", ["./runs/deep/b"]),
        ("corral train ru", ["runs/a", "runs/a/linear/a-slf", "runs/deep/b"]),
        ("corral evaluate nowhere/", []),
    ],
)
def test_a_tab_offers_names_and_runs(tab, folders, line, offered):
    assert tab(line) == offered


def test_run_folders_above_and_elsewhere_are_completed_too(tab, folders, monkeypatch):
    monkeypatch.chdir(folders / "notes")
    assert tab("corral show ../runs/d") == ["../runs/deep/b"]
    assert tab(f"corral show {folders}/runs/d") == [f"{folders}/runs/deep/b"]


def test_the_search_for_runs_is_bounded(folders):
    assert list(run_folders(folders, depth=1)) == []
    assert list(run_folders(folders, depth=2)) == [folders / "runs" / "a"]
    for number in range(30):
        (folders / f"image-{number}").touch()
    assert list(run_folders(folders, most=20)) == []


def test_a_plugin_s_names_are_offered(tab, folders, monkeypatch):
    monkeypatch.setenv("CORRAL_PLUGINS", "")
    source = "import corral\n\n@corral.register.protocol('zeal', 'nothing')\ndef zeal(target, threat):\n    return ()\n"
    (folders / "zeal.py").write_text(source)
    assert tab("corral evaluate x --protocol z") == []
    assert tab("corral --plugin zeal.py evaluate x --protocol z") == ["zeal"]
    assert tab("corral --plugin missing.py evaluate x --protocol q") == ["quick"]


@pytest.mark.parametrize(
    "line", ["corral evaluate runs/", "corral evaluate x --attack pgd", "corral train at --data m", "corral --help"]
)
def test_a_tab_and_the_help_take_a_moment_of_the_processor_and_no_torch(folders, line):
    """CPU time, for the machine may be busy: 0.3 s of a TAB, 0.5 s of the help."""
    code = "import sys, os, atexit\n"
    code += "atexit.register(lambda: os.write(2, f'{sum(os.times()[:2])} {\"torch\" in sys.modules}'.encode()))\n"
    code += "from corral.cli import main; main()"
    env, arguments, most = dict(os.environ), [], 0.3
    if line.endswith("--help"):
        arguments, most = ["--help"], 0.5
    else:
        env |= {"_CORRAL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    # The least of ten in some seconds: what the machine does beside it costs processor time too, in phases.
    seconds = []
    for _ in range(10):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        taken, torch = done.stderr.split()
        assert done.stdout
        assert torch == "False"
        seconds.append(float(taken))
        if seconds[-1] < most:
            break
        time.sleep(0.5)
    assert min(seconds) < most


@pytest.mark.parametrize("command", ["", *(one for one in ("train", "evaluate", "audit", "recipes", "reproduce"))])
def test_h_is_help_everywhere(command):
    short, long = (CliRunner().invoke(cli.app, [*command.split(), option]) for option in ("-h", "--help"))
    assert (short.exit_code, short.output) == (0, long.output)


def test_only_s_values_are_in_the_help():
    shown = " ".join(CliRunner().invoke(cli.app, ["analyze", "-h"]).output.split())
    assert all(name in shown for name in NAMES["analysis"])
