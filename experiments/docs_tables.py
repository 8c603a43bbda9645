"""Copy the tables of results/ into the documents that show them.

usage: python experiments/docs_tables.py [--check]

Two comments in a document name the source of a table and enclose the copy:

    <!-- table: results/tables/cause-small/table.md # The published attack with one part changed -->
    <!-- end -->

The text between them is replaced by the first table below that heading. Of a .jsonl file, such as what `make faults`
and `make fuzz` print, the heading is the keys to show; lines that differ in numbers alone are added up:

    <!-- table: tests/faults/table.jsonl # fault, verb, tries, lost, bad -->

--check changes nothing and exits with 1 where
a document differs from its results.
"""

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- table: (?P<path>[^#]+?) # (?P<heading>.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def table_below(text: str, heading: str) -> str:
    """The first Markdown table below a heading.

    Raises:
        ValueError: no such heading, or no table below it.
    """
    lines = text.splitlines()
    places = [place for place, line in enumerate(lines) if line.lstrip("#").strip() == heading and line[:1] == "#"]
    if not places:
        raise ValueError(f"no heading {heading!r}")
    rows: list[str] = []
    for line in lines[places[0] + 1 :]:
        if line.startswith("|"):
            rows.append(line)
        elif rows or line.startswith("#"):
            break
    if not rows:
        raise ValueError(f"no table below {heading!r}")
    return "\n".join(rows) + "\n"


def table_of_lines(text: str, keys: list[str]) -> str:
    """A Markdown table of JSON lines that have these keys; numbers of lines that are alike in all else are summed."""
    lines = [line for line in map(json.loads, text.splitlines()) if set(keys) <= line.keys()]
    numbers = [key for key in keys if all(isinstance(line[key], int | float) for line in lines)]
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for line in lines:
        found = rows.setdefault(tuple(str(line[key]) for key in keys if key not in numbers), dict.fromkeys(numbers, 0))
        for key in numbers:
            found[key] += line[key]
    shown = [f"| {' | '.join(keys)} |", f"| {' | '.join('---:' if key in numbers else '---' for key in keys)} |"]
    for words, sums in rows.items():
        left = iter(words)
        cells = (f"{sums[key]:,.0f}" if key in sums else next(left) for key in keys)
        shown.append(f"| {' | '.join(cells)} |")
    return "\n".join(shown) + "\n"


def refreshed(document: str, root: Path = ROOT) -> str:
    """A document with the tables of the results."""

    def replaced(found: re.Match[str]) -> str:
        text = (root / found["path"].strip()).read_text(encoding="utf-8")
        lines = found["path"].strip().endswith(".jsonl")
        table = table_of_lines(text, found["heading"].split(", ")) if lines else table_below(text, found["heading"])
        return f"{found[1]}\n{table}\n{found[5]}"

    return BLOCK.sub(replaced, document)


def documents(root: Path = ROOT) -> list[Path]:
    """The documents that may show tables."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def refresh(*, check: bool) -> list[Path]:
    """Copy the tables into every document; returns those that were out of date.

    Args:
        check: change nothing.
    """
    behind = []
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after = refreshed(before)
        if before != after:
            behind.append(path)
            if not check:
                path.write_text(after, encoding="utf-8")
    for path in behind:
        print(f"{path.relative_to(ROOT)}: {'behind its results' if check else 'refreshed'}")
    return behind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    sys.exit(1 if refresh(check=check) and check else 0)


if __name__ == "__main__":
    main()
