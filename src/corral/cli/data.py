"""`corral data` on the command line: list the data sets, or describe one."""

from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.options import DataRoot, Json, print_json

EPILOG = "Example: corral data mnist"


def data(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Load this set (fetching it if need be) and describe it.", autocompletion=complete.names("data set")
        ),
    ] = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """List the data sets, or load one and say what is in it."""
    from corral.data import DATA_SETS, PATH_DATA_SETS, load

    if name is None:
        listed = [(name, entry.description) for name, entry in DATA_SETS.items()]
        listed += [(f"{name}:PATH", entry.description) for name, entry in PATH_DATA_SETS.items()]
        if as_json:
            print_json([{"name": key, "description": text} for key, text in listed])
        else:
            width = max(len(key) for key, _ in listed)
            typer.echo("\n".join(f"{key:<{width}}  {text}" for key, text in listed))
        return
    found = load(name, root=data_root)
    facts = {
        "name": found.name,
        "note": found.note,
        "image_shape": list(found.train.shape),
        "classes": list(found.classes),
        "train": len(found.train),
        "test": len(found.test),
        "unlabeled": len(found.unlabeled) if found.unlabeled is not None else 0,
        "fingerprint": found.fingerprint,
    }
    if as_json:
        print_json(facts)
    else:
        for key, value in facts.items():
            typer.echo(f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
