"""Turn results of earlier versions, a folder a table with a JSON file an evaluation, into CSV files, and check them.

usage: python experiments/compact_results.py convert OLD [--results results]
       python experiments/compact_results.py merge OLD [--results results]
       python experiments/compact_results.py check OLD [--results results]

`convert` adds every row of OLD, which may be the results folder itself, and makes all tables again. `merge` adds the
rows that the results lack, those that are newer than the results' own, and those of the table's setting where the
results' are of an earlier one; it may be called again when OLD has grown. `check` compares every number of every
`table.md` in OLD with the table made from the CSV files, cell by cell, and exits with 1 where one is missing; a row of
which the results have a newer version is skipped. The other two check the tables that they added rows to.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from corral.papers import load_table
from corral.papers.lines import RowKey, read_changed
from corral.papers.old import old_folders, read_old
from corral.papers.page import table_page
from corral.papers.result import EARLIER, read_result
from corral.papers.show import planned_runs, shown_again, table_result
from corral.papers.store import Store, changing, read_store
from corral.report.table.markdown import as_markdown

# Cells by table, heading above, row and column.
Cells = dict[tuple[str, str, str, str], str]


def cells_of(text: str) -> Cells:
    """Every cell of the Markdown tables in a text."""
    found: Cells = {}
    heading, section, header = "", "", []
    for line in text.splitlines():
        if line.startswith("#"):
            heading, section = (line, "") if line.startswith("## ") else (heading, line)
            header = []
        elif line.startswith("| ---"):
            continue
        elif line.startswith("| "):
            values = re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))
            if header:
                row = values[0].removesuffix(f" ({EARLIER})")
                found |= {(heading, section, row, title): value for title, value in zip(header, values, strict=True)}
            else:
                header = values
        else:
            header = []
    return found


def newer(key: RowKey, ours: Store, theirs: Store) -> bool:
    """Whether another store's row replaces ours: it is of today's setting, or of the same one and newer."""
    if key not in ours.rows:
        return True
    mine, other = ours.rows[key], theirs.rows[key]
    if [line.evaluations for line in mine] == [line.evaluations for line in other]:
        return False
    meant = planned_runs(load_table(key.table), key.scale, read_changed(key.changed)).get(
        (key.data, key.beside, key.row)
    )

    def rank(store: Store) -> tuple[bool, str]:
        lines = store.rows[key]
        made = (line.created for row in lines for name in row.evaluations.split() for line in store.attacks[name])
        return (lines[0].rule, *(line.run for line in lines)) == meant, max(made)

    return rank(theirs) > rank(ours)


def take(old: Path, results: Path, *, everything: bool) -> list[Path]:
    """Add rows of old folders to the results and make their tables again; returns the folders that had any."""
    folders = []
    for folder in old_folders(old):
        theirs = read_old(folder)
        with changing(results) as store:
            chosen = [key for key in theirs.rows if everything or newer(key, store, theirs)]
            theirs.rows = {key: theirs.rows[key] for key in chosen}
            store.add(theirs.without_orphans())
        if chosen:
            folders.append(folder)
            (name, scale, changed), *_ = {(key.table, key.scale, key.changed) for key in chosen}
            shown_again(load_table(name), scale, read_changed(changed), results)
        print(f"{folder.name}: {len(chosen)} rows taken" + "".join(f"\n    {key.data}: {key.row}" for key in chosen))
    return folders


def check(folders: Sequence[Path], results: Path) -> bool:
    """Compare the old tables with those made from the CSV files; prints the differences."""
    store, counts = read_store(results), Counter[str]()
    for folder in folders:
        theirs, result = read_old(folder), read_result(folder / "table.json")
        definition = load_table(result.table)
        replaced = {
            (f"## {key.data}", key.row)
            for key, lines in theirs.rows.items()
            if [line.evaluations for line in store.rows.get(key, [])] != [line.evaluations for line in lines]
        }
        counts["rows made again since"] += len(replaced)
        made = table_result(definition, result.scale, result.changed, store)
        new = cells_of(as_markdown(table_page(definition, made)))
        for place, value in cells_of((folder / "table.md").read_text(encoding="utf-8")).items():
            if value == "–" or (place[0].partition(",")[0], place[2]) in replaced:
                continue
            if replaced and place[1].startswith("### Against"):  # with a row that may be another one now
                continue
            known = {other for key, other in new.items() if (key[0], key[2]) == (place[0], place[2])}
            if new.get(place) == value:
                counts["equal"] += 1
            elif value in known:
                counts["in another column of the row"] += 1
                print(f"{folder.name}: {' / '.join(place)}: {value} is now {new.get(place)}")
            else:
                lost = "published, not in the definition any more" if "published" in place[3] else "LOST"
                counts[lost] += 1
                print(f"{folder.name}: {' / '.join(place)}: {value} is now {new.get(place)}: {lost}")
    print("cells: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    return not counts["LOST"]


def main() -> None:
    """Carry out one of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("convert", "merge", "check"))
    parser.add_argument("old", type=Path)
    parser.add_argument("--results", type=Path, default=Path("results"))
    given = parser.parse_args()
    folders = old_folders(given.old)
    if given.command != "check":
        folders = take(given.old, given.results, everything=given.command == "convert")
    sys.exit(0 if check(folders, given.results) else 1)


if __name__ == "__main__":
    main()
