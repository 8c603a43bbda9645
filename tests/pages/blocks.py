"""The code blocks of README and docs, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```[ \t]*$", re.M | re.S)
FILE = re.compile(r"# (\S+\.py)\n")
# What may stand before a command's own name: values of the environment, and what starts or feeds commands.
BEFORE = re.compile(r"^(?:(?:[A-Z_]+=\S*|do|then)\s+)+")
STARTERS = re.compile(r"^(?:torchrun|srun|parallel)\b.*?(?:-m corral|\bcorral)\s")
# Several commands in one line.
BETWEEN = re.compile(r"\s*(?:;|\||&&)\s+|\s+>\s*\S+")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file's name, where the block is the text of a file."""
        found = FILE.match(self.text)
        return found[1] if found else None

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order, without the indentation of the list that they are in."""
    text = PAGES[page].read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        indent = match["indent"]
        code = re.sub(rf"^{indent}", "", match["text"], flags=re.MULTILINE)
        found.append(Block(page, text.count("\n", 0, match.start()) + 1, match["language"], code))
    return found


def code(block: Block, names: dict, replaced: dict[str, str] | None = None) -> None:
    """Run a block of Python in a namespace, with the page's lines in tracebacks, smaller where `replaced` says so."""
    text = block.text
    for before, after in (replaced or {}).items():
        text = text.replace(before, after)
    exec(compile("\n" * block.line + text, block.page, "exec"), names)


def commands(block: Block) -> Iterator[str]:
    """The commands of a block of shell, one a line, without comments and what is put before them."""
    whole = block.text.replace("\\\n", " ")
    # A value of several lines, between quotes.
    whole = re.sub(r'="[^"]*"', lambda found: found[0].replace("\n", " "), whole)
    variables: dict[str, str] = {}
    for line in whole.splitlines():
        text = re.sub(r"(^|\s)#.*$", "", line).strip()
        if stored := re.match(r'^(\w+)="([^"]*)"$', text):
            variables[f"${stored[1]}"] = stored[2]
            continue
        for name, value in variables.items():
            text = text.replace(name, value)
        for part in BETWEEN.split(text):
            if command := BEFORE.sub("", part.strip()):
                yield re.sub(r"\$[a-z]+\b", "1", STARTERS.sub("corral ", command))  # a loop's number


def words(command: str) -> list[str]:
    """The words of a command."""
    return shlex.split(command)
