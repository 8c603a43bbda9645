"""Signals, closed streams, hostile names: one line and the right exit code, at any moment."""

import os
import signal
import subprocess
import sys
import time

import pytest

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
NAMES = {signal.SIGINT: "", signal.SIGTERM: " by SIGTERM", signal.SIGHUP: " by SIGHUP"}
# The command line with a moment in it at which the test sends its signal.
AT_A_MOMENT = """
import sys, time
from corral import cli

def wait():
    print("now", flush=True)
    {waiting}

{patch}
cli.main()
"""
SLEEPING = "time.sleep(60)"
# As foreign code may: it catches everything, or is called where nobody sees what it raises.
CATCHING = """
    try:
        time.sleep(60)
    except BaseException:
        pass
    time.sleep(60)"""
UNSEEN = """
    class Unseen:
        def __del__(self):
            time.sleep(60)
    Unseen()
    time.sleep(60)"""
PATCHES = {
    "imports": "import builtins; before = builtins.__import__\n"
    "def importing(name, *rest):\n    if name == 'torch': wait()\n    return before(name, *rest)\n"
    "builtins.__import__ = importing",
    "work": "import corral.training; corral.training.train = lambda *args, **given: wait()",
    "printing": "import corral.cli.recipes as recipes\nrecipes.listing = lambda: wait()",
}
LINES = {
    "imports": ["train", "at", "--out", "new"],
    "work": ["train", "at", "--out", "new"],
    "printing": ["recipes"],
}


def interrupted(moment, number, cwd, waiting=SLEEPING, prelude=""):
    code = prelude + AT_A_MOMENT.format(waiting=waiting, patch=PATCHES[moment])
    child = subprocess.Popen(
        [sys.executable, "-c", code, *LINES[moment]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        text=True,
    )
    assert child.stdout.readline() == "now\n", child.stderr.read()
    time.sleep(0.05)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    return child.returncode, err


@pytest.mark.parametrize(
    ("moment", "number"),
    [("work", signal.SIGTERM), ("work", signal.SIGINT), ("imports", signal.SIGHUP), ("printing", signal.SIGTERM)],
)
def test_a_signal_is_one_line_and_its_exit_code(tmp_path, moment, number):
    code, err = interrupted(moment, number, tmp_path)
    kept = "; no epoch was finished" if moment == "work" else ""
    assert (code, err.strip()) == (CODES[number], f"corral: interrupted{NAMES[number]}{kept}")


@pytest.mark.parametrize("waiting", [CATCHING, UNSEEN], ids=["caught", "in a destructor"])
def test_foreign_code_that_swallows_an_interruption_does_not_keep_the_process(tmp_path, waiting):
    short = "from corral.cli import signals; signals.PATIENCE_SECONDS = 0.3\n"
    code, err = interrupted("work", signal.SIGTERM, tmp_path, waiting, short)
    assert (code, err.strip()) == (143, "corral: interrupted by SIGTERM; no epoch was finished")


def test_an_interruption_of_executed_text_is_no_death_by_sigint(tmp_path):
    """CPython ends so, whatever the exit code, where an exception leaves text that `exec` runs, as a dataclass's."""
    code = "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(20)"
    (tmp_path / "mine.py").write_text(f"def load():\n    exec({code!r})\n")
    command = "-m corral train at --data mine.py:load --set model.backbone=mlp --set threat.eps=0.1 --out run"
    ended = subprocess.run(
        [sys.executable, *command.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr.strip()) == (143, "corral: interrupted by SIGTERM; no epoch was finished")


def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored(tmp_path):
    short = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    waiting = "time.sleep(0.5); raise SystemExit(7)"
    assert interrupted("work", signal.SIGHUP, tmp_path, waiting, short) == (7, "")


def test_importing_the_library_and_the_command_line_touches_no_handler():
    code = (
        "import signal; numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]\n"
        "before = [signal.getsignal(number) for number in numbers]\n"
        "import corral, corral.cli, corral.cli.commands, corral.training, sys\n"
        "assert before == [signal.getsignal(number) for number in numbers]\n"
        "assert sys.stdout is sys.__stdout__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def shell(line, cwd, **environment):
    """A line of the shell, `corral` in it this package."""
    command = f'corral() {{ "{sys.executable}" -m corral "$@"; }}; {line}'
    kept = {**os.environ, **environment}
    return subprocess.run(["bash", "-c", command], cwd=cwd, env=kept, capture_output=True, text=True, check=False)


SMALL = "--set data.train=60 --set width=4 --set model.features=8 --set warm_start.epochs=0 --epochs 1"


def test_closed_streams_stop_no_training(tmp_path):
    done = shell(f"corral train nominal --out made {SMALL} >&- 2>&- <&-", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in (tmp_path / "made").iterdir()} >= {"model.safetensors", "metrics.jsonl"}
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_a_reader_that_goes_leaves_a_run_that_can_be_trained(tmp_path):
    done = shell(f"corral train nominal --out made {SMALL} 2>&1 | true; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert done.stderr == ""
    assert shell(f"corral train nominal --out made --quiet {SMALL} --auto-resume", tmp_path).returncode == 0


@pytest.mark.parametrize("coercion", [{"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}, {}])
def test_names_show_no_control_characters(tmp_path, coercion):
    (tmp_path / "\x1b[31mred\x9b2J").mkdir()
    recipe = 'name = "a\\u001b[2Jb"\nsummary = "\\u202ereversed"\n[method]\nname = "nominal"\n'
    (tmp_path / "mine.toml").write_text(recipe)
    done = shell("corral evaluate $'\\x1b[31mred\\xc2\\x9b2J'; corral recipes mine.toml", tmp_path, **coercion)
    shown = done.stdout + done.stderr
    assert not any(ord(letter) < 32 and letter not in "\n\t" for letter in shown)
    assert not any(letter in shown for letter in "\x9b\u202e")
    assert "\\u202ereversed" in shown
    assert "corral: \\x1b[31mred" in shown


@pytest.mark.parametrize(("name", "folder"), [("../x", "x"), ("/abs/x", "x"), ("..", "--"), ("a b/", "-")])
def test_a_default_folder_lies_in_runs_whatever_the_recipe_is_called(name, folder):
    from corral.cli.train import _slug

    assert _slug(name) == folder


@pytest.mark.parametrize(
    "line",
    [
        f"train nominal --data digits --out $'made\\xff' {SMALL}",
        f"train nominal --data $'npz:d\\xff.npz' --out made {SMALL}",
        "evaluate $'run\\xff'",
        "analyze $'run\\xff'",
        "report $'run\\xff'",
        "audit $'run\\xff' --eps 0.1",
        "report run --out $'page\\xff'",
    ],
)
def test_a_name_that_no_record_can_hold_is_refused_before_the_work(tmp_path, monkeypatch, capsys, line):
    from corral.cli import main

    arguments = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    monkeypatch.setattr(sys, "argv", ["corral", *map(os.fsdecode, arguments.split(b"\0")[:-1])])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert ended.value.code in (1, 2)
    assert "not UTF-8" in err or "no name for a file" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
