"""Every command in README and docs is one that the command line, the Makefile or a script takes."""

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
import typer
from tests.pages.blocks import PAGES, ROOT, Block, blocks, commands, words
from typer.main import get_command

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
OTHERS = {"sbatch", "tr", "for", "done", "TABLE", "hf", "docker", "#!/bin/sh"}
LINES = [(block, line) for block in SHELLS for line in commands(block)]
OF_CORRAL = [(block, line) for block, line in LINES if re.match(r"corral\s|corral$", line)]
# A name that stands for the reader's own.
PLACEHOLDER = re.compile(r"^[A-Z_]+$|\{\}|^\$|\*")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_its_language(page):
    assert [block.place for block in blocks(page) if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("block", SHELLS, ids=lambda block: block.place)
def test_a_shell_reads_it(block: Block):
    done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def parsed(line: str) -> tuple[str, dict]:
    """The verb of a command line and what its options and arguments are, as the command line parses them."""
    group = get_command(app)
    given = words(line)[1:]
    context = group.make_context("corral", given, resilient_parsing=False)
    rest = [*context._protected_args, *context.args]
    if not rest:
        return "", context.params
    name, command, left = group.resolve_command(context, rest)
    return name, command.make_context(name, left, parent=context).params


@pytest.mark.parametrize(("block", "line"), OF_CORRAL, ids=lambda what: getattr(what, "place", what))
def test_a_command_of_corral_s_is_parsed(block: Block, line: str):
    if line.split()[1:] in (["--version"], ["--help"]):
        return
    verb, values = parsed(line)
    check_values(verb, values)


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
    named = values["data"] if values["data"] and is_known(values["data"]) else None
    own = any("model." in key for key in settings) or values["backbone"] or named is None
    try:
        load_recipe(values["recipe"], data=named, overrides={k: v for k, v in settings.items() if "model." not in k})
    except UsageError as error:
        if not own:
            raise
        assert "unknown" not in str(error), error


@cache
def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@pytest.mark.parametrize(
    ("block", "line"),
    [(block, line) for block, line in LINES if not re.match(r"corral\b", line)],
    ids=lambda what: getattr(what, "place", what),
)
def test_another_command_is_there(block: Block, line: str):
    first, *rest = words(line)
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


SPANS = [
    (page, span)
    for page, path in PAGES.items()
    for span in re.findall(r"`(corral [a-z][^`\n]*)`", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL))
]


@pytest.mark.parametrize(("page", "span"), sorted(set(SPANS)))
def test_a_command_in_a_sentence_has_a_verb_and_options_that_exist(page: str, span: str):
    group = get_command(app)
    verbs = [word for word in span.split()[1:] if word in group.commands]
    assert verbs or "COMMAND" in span or span.split()[1].startswith("--"), span
    known = {name for parameter in group.params for name in parameter.opts}
    for verb in verbs[:1]:
        known |= {name for parameter in group.commands[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert [word for word in re.findall(r"(?<!\S)--[\w-]+", span) if word not in known | {"--help", "--version"}] == []


def test_an_option_that_is_not_there_is_noticed():
    with pytest.raises((typer.Exit, SystemExit, Exception), match="--hidden"):
        parsed("corral train at --hidden 3")
    with pytest.raises(UsageError, match="clustrr"):
        check_values("reproduce", {"table": "clustrr"})
    with pytest.raises(AssertionError):
        check_values("evaluate", {"data": "cifar11"})


def test_a_line_is_taken_apart(tmp_path: Path):
    text = 'small="--epochs 1\n  --quiet"\nA=1 corral train at $small \\\n  --seed 2   # why\nfor a in 1 2; do corral runs > x; done\n'
    assert list(commands(Block("p", 1, "sh", text))) == [
        "corral train at --epochs 1   --quiet    --seed 2",
        "for a in 1 2",
        "corral runs",
        "done",
    ]
