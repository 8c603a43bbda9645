"""`corral reproduce` on the command line: list the tables, make one again, or print what makes each of its runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from corral.cli import complete
from corral.cli.options import Common, interruptible, parse_setting, print_json, print_named, with_common
from corral.cli.plan import command, print_plan
from corral.errors import UsageError, closest
from corral.strict import MOST_WHOLE

EPILOG = "Example: corral reproduce clustr-table1 --scale small --data-root data --workers 2"


@with_common
def reproduce(
    context: typer.Context,
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
    workers: Annotated[
        int, typer.Option(min=1, max=MOST_WHOLE, help="Processes that make runs side by side; threads are shared out.")
    ] = 1,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Make nothing: print a command for each run that is not made, for any scheduler."),
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="With --plan: also the runs that are made.")] = False,
    wave: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_WHOLE,
            help="With --plan: only those of one wave, which run at once, after the waves before it.",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Make only this run, by the name that --plan gives it; the table is not written."),
    ] = None,
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

    ways = {"--plan": plan, "--only": only is not None, "--show": only_show, "--workers": workers > 1}
    _check_ways([way for way, asked in ways.items() if asked], table, more=every or wave is not None)
    if table is None:
        found = [load_table(name) for name in shipped_tables()]
        if common.as_json:
            print_json([{"name": t.name, "title": t.title, "source": t.source} for t in found])
            return
        print_named([(t.name, t.title, t.source) for t in found])
        return
    changed = dict(parse_setting(text) for text in settings or [])
    given: dict[str, Any] = {"scale": scale, "runs": runs, "rows": row, "data": data, "changed": changed}
    with interruptible("what is finished is kept, the same command goes on"):
        if plan:
            words = command(context, table, given, settings or [], common)
            print_plan(table, given, words, every=every, wave=wave, results=results, common=common)
            return
        if only is not None:
            _make_only(table, given, only, common)
            return
        if only_show:
            page = show(table, scale=scale, results=results, changed=changed)
        else:
            page = make(table, results=results, workers=workers, **given, **common.keywords())
    if common.as_json:
        print_json(read_result(page.with_name("table.json")).model_dump(mode="json"))
    else:
        typer.echo(f"wrote {page}")


def _check_ways(ways: list[str], table: str | None, *, more: bool) -> None:
    """Refuse options that exclude each other, or that say nothing without another."""
    if len(ways) > 1:
        raise UsageError(f"{ways[0]} and {ways[1]} exclude each other; give one of them")
    if ways and table is None:
        raise UsageError(f"{ways[0]} needs a table; `corral reproduce` lists them")
    if more and "--plan" not in ways:
        raise UsageError("--all and --wave say which commands --plan prints; give --plan too, or leave them out")


def _make_only(table: str, given: dict[str, Any], only: str, common: Common) -> None:
    """Make one run of the table and say so."""
    from corral.papers.jobs import jobs_of, make_job
    from corral.papers.make import set_up

    setup = set_up(table, **given, **common.keywords())
    jobs = jobs_of(setup)
    if only not in jobs:
        known = closest(only, jobs) or "; --plan prints those that there are"
        raise UsageError(f"{table} at scale {given['scale']} has no run {only!r} by these options{known}")
    make_job(setup, jobs[only])
    if common.as_json:
        print_json({"run": str(jobs[only].folder), "rows": [row.name for _, row, _ in jobs[only].measured]})
    else:
        typer.echo(f"made {jobs[only].folder}")
