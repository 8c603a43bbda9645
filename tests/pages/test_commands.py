"""Every command in README and docs is one that the command line, the Makefile or a script takes."""

import re
import subprocess
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.pages.blocks import PAGES, ROOT, Block, blocks, commands, words
from typer.main import get_command
from typer.testing import CliRunner

from corral.attacks.protocols import PROTOCOLS
from corral.cli.commands import app
from corral.cli.options import parse_setting
from corral.data import is_known
from corral.errors import UsageError
from corral.evaluation.protocols import parsed_threat
from corral.papers import load_table
from corral.training import load_recipe, shipped_recipes

LANGUAGES = {"python", "py", "sh", "toml", "text", "json", "pycon"}
SHELLS = [block for page in PAGES for block in blocks(page) if block.language == "sh"]
# Programs of others, which are shown with what they start.
OTHERS = {"sbatch", "tr", "xargs", "parallel", "eval", "for", "done"}


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_its_language(page):
    assert [block.place for block in blocks(page) if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("block", SHELLS, ids=lambda block: block.place)
def test_a_shell_reads_it(block: Block):
    done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@cache
def program() -> Any:
    """The command line, built once."""
    return get_command(app)


def parsed(line: str) -> tuple[str, dict]:
    """The verb of a command line and what its options and arguments are, as the command line parses them."""
    group = program()
    given = words(line)[1:]
    context = group.make_context("corral", given, resilient_parsing=False)
    rest = [*context._protected_args, *context.args]
    if not rest:
        return "", context.params
    name, command, left = group.resolve_command(context, rest)
    return name, command.make_context(name, left, parent=context).params


@pytest.mark.parametrize("block", SHELLS, ids=lambda block: block.place)
def test_each_of_its_commands_is_one(block: Block):
    for line in commands(block):
        if line in ("corral --version", "corral"):
            continue
        if line.startswith("corral "):
            verb, values = parsed(line)
            check_values(verb, values)
        else:
            check_other(*words(line))


def test_every_verb_is_shown_with_an_example():
    lines = [line for block in SHELLS for line in commands(block) if re.match(r"corral (--plugin \S+ )*[a-z]", line)]
    assert {parsed(line)[0] for line in lines} == set(program().commands)


def check_values(verb: str, values: dict) -> None:
    """The values that are read later than the options: recipes, settings, radii, protocols, data, tables."""
    eps, data = values.get("eps"), values.get("data")
    if eps is not None:
        parsed_threat(values.get("norm") or "Linf", eps, (3, 32, 32))
    if isinstance(data, str) and not re.search(r"[:/]|^[A-Z]+$|stripes", data):
        assert is_known(data), data
    if values.get("protocol") not in (None, "momentum"):
        PROTOCOLS.find(values["protocol"])
    if verb == "reproduce" and values.get("table") not in (None, "TABLE"):
        load_table(values["table"])
    if verb == "train" and values["recipe"] in shipped_recipes():
        check_recipe(values)


def check_recipe(values: dict) -> None:
    settings = dict(parse_setting(text) for text in values["settings"] or [])
    settings |= {"threat.eps": values["eps"]} if values["eps"] else {}
    named = None if re.search(r"\.py:|stripes", values["data"] or "") else values["data"]
    # The network is the reader's own: its options are not those of the recipe's.
    given = {key: value for key, value in settings.items() if "model." not in key}
    if named is None or values["backbone"] or given != settings:
        given["model.backbone"] = "convnet"
    load_recipe(values["recipe"], data=named, overrides=given)


@cache
def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def check_other(first: str, *rest: str) -> None:
    """A command of make, Python or pip, by what is there."""
    if first == "make":
        assert rest[0] in targets()
    elif first == "python" and rest[0] == "-m":
        assert (ROOT / (rest[1].replace(".", "/") + ".py")).is_file() or (ROOT / rest[1].replace(".", "/")).is_dir()
    elif first == "python":
        text = (ROOT / rest[0]).read_text(encoding="utf-8")
        assert [word for word in rest if word.startswith("--") and word.partition("=")[0] not in text] == []
    elif first == "pip":
        for word in rest:
            for extra in re.findall(r"corral\[([\w,]+)\]", word):
                assert set(extra.split(",")) <= extras()
    else:
        assert first in OTHERS or first.startswith(("one=", "two=", "."))


@pytest.mark.parametrize("page", PAGES)
def test_a_command_in_a_sentence_has_a_verb_and_options_that_exist(page: str):
    text = re.sub(r"```.*?```", "", PAGES[page].read_text(encoding="utf-8"), flags=re.DOTALL)
    for span in re.findall(r"`(corral [a-z][^`\n]*)`", text):
        check_span(span)


def check_span(span: str) -> None:
    """A command as a sentence quotes it: its verb and the options that it names."""
    group = program()
    verbs = [word for word in span.split()[1:] if word in group.commands]
    assert verbs or "COMMAND" in span or span.split()[1].startswith("--"), span
    known = {name for parameter in group.params for name in parameter.opts}
    for verb in verbs[:1]:
        known |= {
            name for parameter in group.commands[verb].params for name in (*parameter.opts, *parameter.secondary_opts)
        }
    assert [word for word in re.findall(r"(?<!\S)--[\w-]+", span) if word not in known | {"--help", "--version"}] == []


def test_an_option_that_is_not_there_is_noticed():
    with pytest.raises((typer.Exit, SystemExit, Exception), match="--hidden"):
        parsed("corral train at --hidden 3")
    with pytest.raises(UsageError, match="clustrr"):
        check_values("reproduce", {"table": "clustrr"})
    with pytest.raises(AssertionError):
        check_values("evaluate", {"data": "cifar11"})


def test_a_line_is_taken_apart(tmp_path: Path):
    lines = ['small="--epochs 1', '  --quiet"', "A=1 corral train at $small \\", "  --seed 2   # why"]
    lines += ["for a in 1 2; do corral runs > x; done", ""]
    assert list(commands(Block("p", 1, "sh", "\n".join(lines)))) == [
        "corral train at --epochs 1   --quiet    --seed 2",
        "for a in 1 2",
        "corral runs",
        "done",
    ]


def test_the_commands_of_the_first_page_run(tmp_path: Path, monkeypatch):
    """docs/get-started.md, "The same from the shell", with fewer epochs, images and attacks."""
    standard = import_module("corral.attacks.autoattack").standard_attacks
    monkeypatch.setattr("corral.audit.audit.standard_attacks", lambda *about: standard(*about)[:1])
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in SHELLS if block.page == "docs/get-started.md" and "corral train" in block.text)
    small = re.sub(r"--(epochs|n) \d+", lambda found: f"--{found[1]} {1 if found[1] == 'epochs' else 20}", block.text)
    output = ""
    for line in commands(Block(block.page, block.line, "sh", small)):
        done = CliRunner().invoke(app, words(line)[1:])
        assert done.exit_code == 0, f"{line}: {done.output}"
        output += done.output
    assert {"report.html", "audit.html"} <= {path.name for path in tmp_path.iterdir()}
    assert "shell-corral  20 of 500" in output


TOML = [block for page in PAGES for block in blocks(page) if block.language == "toml"]


@pytest.mark.parametrize("block", TOML, ids=lambda block: block.place)
def test_its_toml_is_read(block: Block, tmp_path: Path):
    text = tomllib.loads(block.text)
    if "base" in text:  # a whole recipe
        (tmp_path / "mine.toml").write_text(block.text)
        assert load_recipe(tmp_path / "mine.toml", data="mnist").training.epochs == text["training"]["epochs"]
