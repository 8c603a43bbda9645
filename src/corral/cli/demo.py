"""`corral demo` on the command line: the main job on embedded data."""

import time
from pathlib import Path
from typing import Annotated

import typer

from corral.cli.options import Json, Quiet, interruptible, print_json, print_records
from corral.strict import MOST_WHOLE

EPILOG = "Example: corral demo --out runs/demo"


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the page.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, max=MOST_WHOLE)] = 0,
    workers: Annotated[int | None, typer.Option(min=1, max=MOST_WHOLE, help="Processes; default one a core.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The main job in two minutes: train seven classifiers on real digits, attack all, write the page."""
    from corral.demo import run_demo

    started = time.perf_counter()
    with interruptible("finished epochs and batches are kept, the same command goes on"):
        page, records = run_demo(out, seed=seed, workers=workers, progress=not quiet)
    seconds = time.perf_counter() - started
    if as_json:
        print_json({"report": str(page), "seconds": seconds, "records": [r.model_dump(mode="json") for r in records]})
        return
    print_records(records)
    typer.echo(f"\n{seconds:.0f} s of work. The page: {page}")
