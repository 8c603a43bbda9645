"""Text is UTF-8 in every locale: what is read, what is written, and what a terminal cannot show."""

import ast
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from corral.cli import main
from corral.data import load
from corral.errors import CorralError, UsageError
from corral.files import as_path, as_text, path_words
from corral.training import train

ROOT = Path(__file__).resolve().parents[1]
# Several verbs in one process: importing torch takes longer than all of them.
VERBS = """
import json, os, sys
from corral.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = [os.fsdecode(word.encode()) for word in arguments]  # as a shell gives them
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            print(arguments[0], "ended with", ended.code, file=sys.stderr)
            raise
"""


def text_calls(tree: ast.Module) -> list[ast.Call]:
    """Calls that open a file as text and name no encoding; ruff's PLW1514 misses what it cannot infer the type of."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        modes = [one.value for one in (*node.args, *(word.value for word in node.keywords)) if is_mode(one)]
        plain = isinstance(node.func, ast.Name) or (name == "open" and not node.args)
        read = name in ("read_text", "write_text") and len(node.args) < (1 if name == "read_text" else 2)
        opened = (name == "open" and (plain or modes)) or (name == "fdopen")
        if read or (opened and not any("b" in mode for mode in modes)):
            found.append(node)
    return found


def is_mode(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) <= 3


@pytest.mark.parametrize("folder", ["src", "benchmarks", "experiments"])
def test_every_text_file_is_opened_as_utf8(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for call in text_calls(ast.parse(path.read_text("utf-8")))
    ]
    assert wrong == []


def test_the_check_itself_finds_what_names_no_encoding() -> None:
    source = "open(p)\nopen(p, 'w')\np.read_text()\np.write_text(x)\np.open()\np.open('a')\nos.fdopen(1)\n"
    assert [call.lineno for call in text_calls(ast.parse(source))] == [1, 2, 3, 4, 5, 6, 7]
    right = "open(p, 'rb')\np.read_text('utf-8')\nopen(p, encoding='utf-8')\np.open('rb')\nImage.open(p)\n"
    assert text_calls(ast.parse(right)) == []


@pytest.mark.slow
@pytest.mark.parametrize("other", ["C", pytest.param("POSIX", marks=pytest.mark.thorough)])
def test_the_verbs_say_and_write_the_same_in_every_locale(other: str, tmp_path: Path) -> None:
    photographs = tmp_path / "photos-é"
    for label, name in enumerate(("ä", "中")):
        (photographs / name).mkdir(parents=True)
        for number in range(10):
            level = 40 + 120 * label + number
            Image.fromarray(np.full((12, 12), level, np.uint8)).save(photographs / name / f"ü{number}.png")
    said = {}
    for locale in (other, "C.UTF-8"):
        run = tmp_path / locale / "run"
        sizes = ["model.backbone=mlp", "model.hidden=[8]", "training.epochs=1", "training.batch_size=8", "data.crop=0"]
        settings = [word for size in sizes for word in ("--set", size)]
        verbs = [
            ["recipes"],
            ["recipes", "corral"],
            ["data"],
            ["data", f"folder:{photographs}"],
            ["train", "at", "--data", f"folder:{photographs}", "--out", str(run), "--eps", "0.1", "--quiet", *settings],
            ["evaluate", str(run), "--attack", "fgsm", "--quiet"],
            ["analyze", str(run), "--only", "compactness", "--quiet"],
            ["report", str(run), "--out", str(run / "page.html")],
        ]
        environment = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        command = [sys.executable, "-c", VERBS, json.dumps(verbs)]
        ended = subprocess.run(command, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
        assert ended.returncode == 0, ended.stderr.decode("utf-8", "replace")
        said[locale] = ended.stdout
        record = json.loads((run / "records/custom.json").read_text("utf-8"))
        assert (record["run"], record["data"]) == ("run", f"folder:{photographs}")
        assert record["classes"] == ["ä", "中"]
        assert "中" in (run / "page.html").read_text("utf-8")
        assert f'name = "folder:{photographs}"' in (run / "recipe.toml").read_text("utf-8")
    assert "classes: ä, 中" in said["C.UTF-8"].decode("utf-8")
    # What the terminal does not have is shown by its number, and the rest is the same.
    shown = said["C.UTF-8"].decode("utf-8").replace("/C.UTF-8/", f"/{other}/")
    assert without_seconds(said[other].decode("ascii")) == without_seconds(escaped(shown))


def without_seconds(text: str) -> str:
    return re.sub(r"[\d.]+ s", "", text)


def escaped(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")


def test_a_terminal_that_cannot_show_a_character_gets_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ä", "中"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / name / f"{number}.png")
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="latin-1", errors="strict"))
    monkeypatch.setattr(sys, "argv", ["corral", "data", f"folder:{tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert b"classes: \xe4, \\u4e2d\n" in shown.getvalue()


def test_a_path_is_recorded_as_text_or_refused() -> None:
    assert as_text(Path("a/é")) == "a/é"
    assert as_path("a/é") == "a/é"
    broken = os.fsdecode(b"caf\xe9.png")
    assert as_path(broken) == broken
    assert path_words(broken) == "caf\\xe9.png"
    assert path_words("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
    with pytest.raises(CorralError, match=r"caf\\xe9\.png: has a name that is not UTF-8; rename it"):
        as_text(broken)


def test_a_run_folder_whose_name_is_no_text_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(UsageError, match=r"caf\\xe9: this name is not UTF-8 text in this locale"):
        train("at", out=out, progress=False)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_data_at_a_path_that_is_no_text_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(CorralError, match=r"caf\\xe9: has a name that is not UTF-8; rename it"):
        load(f"{kind}:{tmp_path / os.fsdecode(b'caf' + bytes([0xE9]))}")


def test_a_file_whose_name_is_no_text_is_named_in_a_note_that_can_be_recorded(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / name / f"{number}.png")
    folder = os.fsencode(tmp_path / "a")
    try:
        os.rename(os.path.join(folder, b"0.png"), os.path.join(folder, b"caf\xe9.png"))
        for name in (b"d\xff.png", b"d\xff.txt"):
            Path(os.fsdecode(os.path.join(folder, name))).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system has no such names")
    data = load(f"folder:{tmp_path}?skip-damaged")
    assert len(data.train) + len(data.test) == 10
    note = data.note.split("; no test")[0]
    assert note == f"11 files, 1 others ignored: a/d\\xff.txt; 1 damaged and skipped: {tmp_path}/a/d\\xff.png"
