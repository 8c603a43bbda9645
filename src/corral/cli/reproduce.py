"""`corral reproduce` on the command line: list the tables, or make one again."""

from pathlib import Path
from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.options import Common, interruptible, parse_setting, print_json, print_named, with_common

EPILOG = "Example: corral reproduce clustr-table1 --scale small --data-root data"


@with_common
def reproduce(
    table: Annotated[
        str | None,
        typer.Argument(help="The table; without it, a list of them.", autocompletion=complete.names("table")),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="smoke (minutes), small (hours of a CPU), short (fits one GPU) or full (the paper's own).",
            autocompletion=complete.one_of("smoke", "small", "short", "full"),
        ),
    ] = "smoke",
    row: Annotated[list[str] | None, typer.Option(help="Only this row, by the paper's name; repeatable.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Only the part on this data set; repeatable.", autocompletion=complete.names("data set")),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Recipe key=value on top of the scale's, or RECIPE:key=value; in a folder of its own."
        ),
    ] = None,
    only_show: Annotated[
        bool, typer.Option("--show", help="Train nothing: write the table's files again from the results' CSV files.")
    ] = False,
    runs: Annotated[Path, typer.Option(help="Where the runs lie.")] = Path("runs/reproduce"),
    results: Annotated[Path, typer.Option(help="Where the CSV files and tables/TABLE-SCALE/ are written.")] = Path(
        "results"
    ),
    *,
    common: Common,
) -> None:
    """Make a table of the papers again: published, ours by their protocol, ours under AutoAttack + adaptive.

    Ctrl-C, or a kill, at any moment: the same command goes on where it stopped. What is not asked for stays as it was.
    """
    from corral.papers import load_table, shipped_tables, show
    from corral.papers import reproduce as make
    from corral.papers.result import read_result

    if table is None:
        found = [load_table(name) for name in shipped_tables()]
        if common.as_json:
            print_json([{"name": t.name, "title": t.title, "source": t.source} for t in found])
            return
        print_named([(t.name, t.title, t.source) for t in found])
        return
    changed = dict(parse_setting(text) for text in settings or [])
    with interruptible("what is finished is kept, the same command goes on"):
        if only_show:
            page = show(table, scale=scale, results=results, changed=changed)
        else:
            page = make(
                table,
                scale=scale,
                runs=runs,
                results=results,
                rows=row,
                data=data,
                changed=changed,
                **common.keywords(),
            )
    if common.as_json:
        print_json(read_result(page.with_name("table.json")).model_dump(mode="json"))
    else:
        typer.echo(f"wrote {page}")
