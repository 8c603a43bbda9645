"""`corral reproduce --plan`: a command for every run of a table that is not made."""

import shlex
from pathlib import Path
from typing import Any

import typer

from corral.cli.options import Common, print_json
from corral.errors import UsageError


def print_plan(
    table: str,
    given: dict[str, Any],
    words: list[str],
    *,
    every: bool,
    wave: int | None,
    results: Path,
    common: Common,
) -> None:
    """Print the command of every run that is not made, each after the one that it begins from.

    Args:
        table: its name.
        given: what `set_up` takes of the command's own options.
        words: of the command, as `command` has them.
        every: the runs that are made too.
        wave: only the runs of this one.
        results: where the table will be written.
        common: the options of every command.
    """
    from corral.papers.jobs import jobs_of, waves
    from corral.papers.make import set_up

    # The device is that of the machine that makes the runs, and may be absent from this one.
    setup = set_up(table, **given, data_root=common.data_root)
    jobs = jobs_of(setup)
    found = waves(setup, jobs)
    wanted = [name for name in jobs if (every or found[name]) and wave in (None, found[name])]
    lines = {name: shlex.join([*words, "--only", name]) for name in sorted(wanted, key=lambda name: found[name])}
    if foreign := next((line for line in lines.values() if not line.isprintable()), None):
        raise UsageError(f"a plan's line cannot hold {foreign!r}: choose paths and values without control characters")
    if common.as_json:
        facts = {name: {"wave": found[name], "begins_from": jobs[name].begins_from} for name in lines}
        print_json([{"run": name, **facts[name], "command": line} for name, line in lines.items()])
    else:
        for line in lines.values():
            typer.echo(line)
    if not common.quiet:
        sizes = [list(found.values()).count(number) for number in range(1, max(found.values(), default=0) + 1)]
        said = f" in {len(sizes)} waves of {', '.join(map(str, sizes))}" if len(sizes) > 1 else ""
        last = shlex.join([*words, "--results", str(results)])
        typer.echo(f"{sum(sizes)} of {len(jobs)} runs to make{said}; the table is written by: {last}", err=True)


def command(
    context: typer.Context, table: str, given: dict[str, Any], settings: list[str], common: Common
) -> list[str]:
    """The words of a command with the options of this one, but for what it does with the runs."""
    before = context.find_root().params
    words = ["corral", *(word for source in before.get("plugin") or () for word in ("--plugin", source))]
    words += ["--accept-edited"] if before.get("accept_edited") else []
    words += ["reproduce", table, "--scale", given["scale"], "--runs", str(given["runs"])]
    for option, values in (("--row", given["rows"]), ("--data", given["data"]), ("--set", settings)):
        words += [word for value in values or () for word in (option, value)]
    own = {"--device": common.device, "--data-root": common.data_root, "--threads": common.threads}
    words += [str(word) for option, value in own.items() if value is not None for word in (option, value)]
    return [*words, "--quiet"] if common.quiet else words
