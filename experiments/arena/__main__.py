"""The arena's command line.

usage: python -m experiments.arena plan   --task T [--stage screen|final] [--all]   # commands of the runs to make
       python -m experiments.arena run    --task T --stage S --entry E [--candidate K] [--seed N]
       python -m experiments.arena select --task T      # settings of the final and finalists, from the screening's rows
       python -m experiments.arena table  [--task T] [--check]
       python -m experiments.arena merge  FOLDER        # rows that another machine made
       python -m experiments.arena passes               # counts passes again, into passes.csv

Every command of a plan can be given again: a run whose row is there is skipped, and one that was killed is taken up.
Two at a time: plan ... | tr '\\n' '\\0' | xargs -0 -n 1 -P 2 sh -c
"""

import argparse
import sys
from pathlib import Path

from corral.documents import document_text
from corral.errors import CorralError
from corral.files import write_atomically
from corral.papers.lines import RowKey
from corral.papers.store import Store, changing, read_store

from .definition import Arena, load_arena
from .passes import FILE as PASSES
from .passes import write as write_passes
from .plan import STAGES, Job, estimates, final_jobs, job_of, line_of, minutes_of, screen_jobs
from .run import make, with_other_seeds
from .selection import read_selection, selected_file, selection_of
from .table import documents, page_html

ROOT = Path(__file__).resolve().parents[2]


def plan(arena: Arena, given: argparse.Namespace) -> int:
    """Print the command of every run that is not made, with its minutes."""
    store = read_store(given.results)
    jobs: list[Job] = []
    if given.stage in (None, "screen"):
        jobs += screen_jobs(arena, given.task)
    if given.stage == "final" or (given.stage is None and selected_file(given.results, given.task).is_file()):
        chosen = read_selection(given.results, given.task)
        jobs += final_jobs(arena, given.task, chosen.numbers, chosen.finalists)
    total, left = 0.0, 0
    speeds = {stage: estimates(arena, store, given.task, stage) for stage in STAGES}
    for job in jobs:
        done = line_of(store, job) is not None
        if done and not given.all:
            continue
        minutes = minutes_of(arena, job, *speeds[job.stage])
        total, left = total + (0 if done else minutes), left + (not done)
        said = "done" if done else f"about {minutes:.0f} min"
        print(
            f"{job.command(given.runs, given.results)}  # {job.epochs} epochs, {job.passes:g} passes an image, {said}"
        )
    print(f"{left} of {len(jobs)} runs to make, {total / 60:.1f} hours of one core", file=sys.stderr)
    return 0


def run(arena: Arena, given: argparse.Namespace) -> int:
    """Make one run."""
    number = given.candidate
    if given.stage == "final":
        method, _ = arena.split(given.task, given.entry)
        chosen = read_selection(given.results, given.task).numbers
        if method not in chosen:
            raise CorralError(f"{method} has no selection on {given.task}: screen its candidates, then select again")
        number = chosen[method]
    job = job_of(arena, given.task, given.stage, given.entry, number=number, seed=given.seed)
    where = {"runs": given.runs, "results": given.results, "data_root": given.data_root, "device": given.device}
    made = make(arena, job, progress=not given.quiet, **where)
    print(f"{given.task}: {job.row}, {job.stage}, seed {job.seed}: {'row added' if made else 'done already'}")
    return 0


def select(arena: Arena, given: argparse.Namespace) -> int:
    """Write the selection that the screening's rows make."""
    found = selection_of(arena, given.task, read_store(given.results))
    if not found.methods:
        raise CorralError(f"{given.results}: no method of {given.task} is screened; `plan --stage screen` has the runs")
    path = selected_file(given.results, given.task)
    write_atomically(path, document_text(found).encode())
    for name, chosen in found.methods.items():
        print(f"{name}: {chosen.best.settings} ({chosen.best.robust:.1%} robust, {chosen.best.clean:.1%} clean)")
    print(f"finalists: {', '.join(found.finalists)}\n{path}")
    return 0


def table(arena: Arena, given: argparse.Namespace) -> int:
    """Write the tables and pages again from the rows; with --check say what differs and change nothing."""
    store, behind = read_store(given.results), 0
    for task in [given.task] if given.task else arena.task:
        folder = selected_file(given.results, task).parent
        for name, content in documents(arena, task, store).items():
            path = folder / name
            if path.is_file() and path.read_bytes() == content:
                continue
            behind += 1
            print(f"{path}: {'behind the CSV files' if given.check else 'made again'}")
            if not given.check:
                write_atomically(path, content)
        if not given.check and (html := page_html(arena, task, store)) is not None:
            write_atomically(folder / "page.html", html.encode())
    return 1 if given.check and behind else 0


def merge(_arena: Arena, given: argparse.Namespace) -> int:
    """Add the arena's rows of another folder of results."""
    other = read_store(given.folder)
    rows: dict[RowKey, list] = {key: lines for key, lines in other.rows.items() if key.table.startswith("arena-")}
    with changing(given.results) as store:
        store.add(with_other_seeds(Store(other.runs, other.attacks, other.analyses, rows), store))
    print(f"{sum(map(len, rows.values()))} rows of {given.folder}")
    return 0


def passes(arena: Arena, _given: argparse.Namespace) -> int:
    """Count the passes of every entry and candidate."""
    recipes = [
        arena.recipe(task, entry, candidate, screen=False)
        for task in arena.task
        for entry in arena.entries(task)
        for candidate in arena.method[entry.split("+")[0]].candidates
    ]
    for name, cost in write_passes(recipes):
        print(f"{name}: {cost.forwards:g} forward, {cost.backwards:g} backward an image and epoch, {cost.once:g} once")
    print(PASSES)
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    found = argparse.ArgumentParser(prog="python -m experiments.arena", description=__doc__.splitlines()[0])
    commands = found.add_subparsers(required=True, metavar="COMMAND")
    for function in (plan, run, select, table, merge, passes):
        one = commands.add_parser(function.__name__, help=(function.__doc__ or "").splitlines()[0])
        one.set_defaults(function=function)
        one.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the CSV files and tables")
        if function in (plan, run):
            one.add_argument("--runs", type=Path, default=ROOT / "runs" / "arena", help="folder of the run folders")
        if function in (plan, run, select, table):
            one.add_argument("--task", required=function is not table)
        if function in (plan, run):
            one.add_argument("--stage", choices=STAGES, required=function is run)
    commands.choices["plan"].add_argument("--all", action="store_true", help="runs that are made too")
    commands.choices["table"].add_argument("--check", action="store_true")
    commands.choices["merge"].add_argument("folder", type=Path)
    of_run = commands.choices["run"]
    of_run.add_argument("--entry", required=True)
    of_run.add_argument("--candidate", type=int, default=1, help="of the screening, from 1")
    of_run.add_argument("--seed", type=int, default=0)
    of_run.add_argument("--data-root", type=Path)
    of_run.add_argument("--device")
    of_run.add_argument("--quiet", action="store_true")
    return found


def main(arguments: list[str] | None = None, arena: Arena | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    given = parser().parse_args(arguments)
    try:
        return int(given.function(arena or load_arena(), given))
    except CorralError as error:
        print(f"arena: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
