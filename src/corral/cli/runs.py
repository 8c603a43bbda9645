"""`corral runs` on the command line: the runs below a folder, one line each."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from corral.cli.complete import run_folders
from corral.cli.options import Json, print_json, print_table
from corral.cli.record_facts import RecordFacts
from corral.cli.run_facts import RunFacts, read_run
from corral.cli.streams import say
from corral.errors import UsageError
from corral.terminal import eps_words

EPILOG = "Example: corral runs runs"
HEADER = ["run", "recipe", "data", "eps", "seed", "state", "clean", "lowest under attack, by protocol"]


def runs(
    folder: Annotated[Path, typer.Argument(help="Where to look, folders below it included.")] = Path(),
    as_json: Json = False,
) -> None:
    """List the runs below a folder: recipe, data, threat, seed, state, and their records' accuracies in percent.

    Folders with records of other models are "measured". Only recipes, records and the headers of models are read; what
    is damaged is a line that says so.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; name one that runs lie below")
    found = [read_run(path) for path in run_folders(folder, others=True)]
    if as_json:
        print_json([run_json(facts) for facts in found])
    elif not found:
        typer.echo(f"no runs below {folder}; `corral train RECIPE` makes one")
    else:
        print_table([HEADER, *(_row(facts) for facts in found)], left=range(len(HEADER)))
        for problem in (problem for facts in found for problem in problems(facts)):
            say("damaged: ", problem, "red")


def run_json(facts: RunFacts) -> dict[str, Any]:
    """A run's facts as they are printed for machines."""
    return {"run": str(facts.path), **{key: value for key, value in asdict(facts).items() if key != "path"}}


def problems(facts: RunFacts) -> list[str]:
    """What is wrong with a run's files and its records, one line each."""
    return [*facts.problems, *(record.problem for record in facts.records if record.problem is not None)]


def state_words(facts: RunFacts) -> str:
    """The state of a run, with how far an unfinished one is."""
    return f"{facts.state}, {facts.progress}" if facts.progress else facts.state


def threat_words(info: dict[str, Any]) -> str:
    """Norm and eps."""
    return f"{info['norm']} {eps_words(info['eps'])}"


def _row(facts: RunFacts) -> list[str]:
    info, read = facts.info, [record for record in facts.records if record.problem is None]
    known = (
        [info.get("recipe", "–"), info["data"], threat_words(info), str(info.get("seed", "–"))] if info else ["–"] * 4
    )
    measured = ", ".join(_lowest(record, info) for record in read)
    damaged = ", ".join(f"{record.file} damaged" for record in facts.records if record.problem is not None)
    clean = max(read, key=lambda record: record.n, default=None)
    return [
        *(str(facts.path), *known, state_words(facts)),
        "–" if clean is None else f"{100 * clean.clean:.1f}",
        ", ".join(words for words in (measured, damaged) if words) or "–",
    ]


def _lowest(record: RecordFacts, info: dict[str, Any]) -> str:
    """A record's protocol with the accuracy under the attack that leaves the least, and what is not the default."""
    apart = [f"n {record.n:,}"] if record.n < record.n_test else []
    if info and (record.norm, record.eps) != (info["norm"], info["eps"]):
        apart.append(f"{record.norm} {eps_words(record.eps)}")
    return f"{record.protocol} {100 * record.lowest:.1f}" + (f" ({', '.join(apart)})" if apart else "")
