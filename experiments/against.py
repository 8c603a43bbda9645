"""Compare a table's rows with a reference row other than the one in its definition, image by image.

usage: python experiments/against.py TABLE ROW [--scale small] [--results results]

Prints every row's accuracy minus that of ROW, in points, with the standard error of the paired difference, in the
format of the table's page. Reads the results' CSV files alone.
"""

import argparse
from pathlib import Path

from corral.papers import load_table, shipped_tables
from corral.papers.against import against
from corral.papers.show import table_result
from corral.papers.store import read_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=shipped_tables())
    parser.add_argument("row")
    parser.add_argument("--scale", default="small")
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    table = load_table(arguments.table)
    result = table_result(table, arguments.scale, {}, read_store(arguments.results))
    if arguments.row not in (names := [row.name for row in table.rows]):
        parser.error(f"no row {arguments.row!r} in {table.name}; rows: {'; '.join(names)}")
    for part in result.parts:
        if section := against(table.model_copy(update={"against": arguments.row}), part):
            print(f"{part.data}: {section.title}, {section.unit}")
            for cells in (section.columns, *section.rows):
                print("  ".join(f"{cell:>14}" if i else f"{cell:32}" for i, cell in enumerate(cells)))


if __name__ == "__main__":
    main()
