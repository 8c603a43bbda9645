"""`corral models` on the command line: the trained models that come with the package, and their cards."""

from pathlib import Path
from typing import Annotated, Any

import typer

from corral import zoo
from corral.cli.complete import shipped
from corral.cli.headers import read_header
from corral.cli.options import Json, print_json, print_table
from corral.cli.record_facts import read_facts
from corral.errors import UsageError
from corral.terminal import eps_words

EPILOG = "Example: corral models corral/digits-at"
HEADER = ["model", "data", "threat", "clean", "PGD", "of images", "AutoAttack", "of images", "what it is"]


def models(
    name: Annotated[
        str | None,
        typer.Argument(help="Of a model whose card to print; default all, a line each.", autocompletion=shipped),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the small trained models that come with corral, with their accuracies in percent; or print a model's card.

    load, evaluate, audit, certify, analyze, export, report and show take these names where they take runs.
    """
    if name is not None and name not in zoo.names():
        raise UsageError(f"{name}: no model of corral; known: {', '.join(zoo.names())}")
    found = [_facts(one) for one in zoo.names() if name in (None, one)]
    if as_json:
        print_json(found)
    elif name is not None:
        typer.echo((zoo.located(name) / "card.md").read_text(encoding="utf-8").rstrip())
    else:
        print_table([HEADER, *map(_row, found)], left=(0, 1, 2, 8))
        typer.echo(
            "Small networks to try things on; `corral models NAME` prints the card with data, threat and limits."
        )


def _facts(name: str) -> dict[str, Any]:
    """What a model's files state."""
    folder = zoo.FOLDER / Path(name).name
    info = read_header(folder / "model.safetensors")[0]["info"]
    records = {path.stem: read_facts(path) for path in sorted((folder / "records").glob("*.json"))}
    return {
        "name": name,
        "about": (folder / "card.md").read_text(encoding="utf-8").split("\n\n")[1].rstrip("."),
        **{key: info[key] for key in ("recipe", "data", "norm", "eps", "seed")},
        "records": {one.protocol: {"n": one.n, "clean": one.clean, "attacks": one.attacks} for one in records.values()},
    }


def _row(facts: dict[str, Any]) -> list[str]:
    quick, standard = facts["records"]["quick"], facts["records"]["standard"]
    worst = [f"{100 * one['attacks']['worst_case']:.1f}" for one in (quick, standard)]
    threat = f"{facts['norm']} {eps_words(facts['eps'])}"
    numbers = [f"{100 * quick['clean']:.1f}", worst[0], str(quick["n"]), worst[1], str(standard["n"])]
    return [facts["name"], facts["data"], threat, *numbers, facts["about"]]
