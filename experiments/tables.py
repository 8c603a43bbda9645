"""Make every table of results/ again from its CSV files, and copy the tables into the documents that show them.

usage: python experiments/tables.py [--check]      # `make tables`

--check changes nothing and exits with 1 where a file differs from what the CSV files and the tables' definitions give.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import certified
import checkpoints
import compare
import docs_tables
import mat_weights
from arena import table as arena_table
from corral.files import write_atomically
from corral.papers import load_table, shipped_tables
from corral.papers.lines import read_changed
from corral.papers.show import TABLES, documents, folder_of, table_result
from corral.papers.store import Store, read_store

ROOT = Path(__file__).resolve().parents[1]
# Tables of no paper: the function that makes their text from the CSV files.
OTHERS: dict[str, Callable[[Path, Store], str]] = {
    "certified-mnist": certified.table_of,
    "mat-weights": mat_weights.table_of,
    "mnist": compare.table_of,
}


def made(results: Path) -> dict[Path, bytes]:
    """Every file below tables/, and every card of a checkpoint, made from the CSV files."""
    store, found = read_store(results), {}
    for name, scale, changed in sorted({(key.table, key.scale, key.changed) for key in store.rows}):
        if name in shipped_tables():
            table, words = load_table(name), read_changed(changed)
            result = table_result(table, scale, words, store)
            folder = results / TABLES / folder_of(name, scale, words)
            found |= {folder / file: content for file, content in documents(table, result).items()}
    for name, table_of in OTHERS.items():
        found[results / TABLES / name / "table.md"] = table_of(results, store).encode()
    return found | arena_table.made(results, store) | checkpoints.cards(store)


def behind(results: Path) -> dict[Path, bytes | None]:
    """The expected text of every file that differs; None for a file without a source."""
    files = made(results)
    strays = {path for pattern in ("table.json", "table.md") for path in (results / TABLES).glob(f"*/{pattern}")}
    changed = {path: content for path, content in files.items() if not path.is_file() or path.read_bytes() != content}
    return {**changed, **dict.fromkeys(strays - files.keys())}


def main() -> None:
    """Write the tables, or say what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    found = behind(ROOT / "results")
    for path, content in found.items():
        said = "nothing makes it" if content is None else "behind the CSV files" if check else "made again"
        print(f"{path.relative_to(ROOT)}: {said}")
        if content is not None and not check:
            write_atomically(path, content)
    late = docs_tables.refresh(check=check)
    sys.exit(1 if check and (found or late) else 0)


if __name__ == "__main__":
    main()
