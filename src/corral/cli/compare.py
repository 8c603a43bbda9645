"""`corral compare` on the command line: evaluated models ranked, as a page and as CSV."""

from pathlib import Path
from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.options import Json, check_out, print_json, print_table
from corral.errors import UsageError

EPILOG = "Example: corral compare runs/* measured/* --out leaderboard.html --csv leaderboard.csv"
HEADER = ["rank", "model", "best known", "AutoAttack", "clean", "flags"]


def compare(
    run: Annotated[
        list[Path],
        typer.Argument(help="Evaluated run folders, and folders of other models.", autocompletion=complete.measured),
    ],
    out: Annotated[Path, typer.Option(help="The page; its folder is made, but none above that.")] = Path(
        "leaderboard.html"
    ),
    csv: Annotated[Path | None, typer.Option(help="The lines as CSV; default beside the page.")] = None,
    as_json: Json = False,
) -> None:
    """Rank evaluated runs and other models by their best known robust accuracy; write a page and a CSV file.

    Models measured on other images, on another number of them or at another threat get a leaderboard of their own.
    """
    from corral.records import as_percent
    from corral.report.leaderboard import compare as compare_runs
    from corral.report.leaderboard.write import rows_of

    lines = out.with_suffix(".csv") if csv is None else csv
    if lines == out:
        raise UsageError(
            f"--out and --csv name the same file, {out}: give the page another name, such as leaderboard.html"
        )
    for path in (out, lines):
        check_out(path)
    boards = compare_runs(run, out=out, csv=lines)
    if as_json:
        print_json({"page": str(out), "csv": str(lines), "lines": rows_of(boards)})
        return
    for board in boards:
        typer.echo(f"{board.group.title}: {' '.join(filter(None, (board.apart, board.basis)))}")
        rows = [
            [
                "–" if line.rank is None else str(line.rank),
                line.entry.label,
                *(as_percent(None if one is None else one.mean) for one in (line.best, line.autoattack, line.clean)),
                "; ".join(line.flags) or "–",
            ]
            for line in board.lines
        ]
        print_table([HEADER, *rows], left=(1, 5))
    for path in (out, lines):
        typer.echo(f"wrote {path}")
