"""`corral report` on the command line: one page about evaluated runs."""

from pathlib import Path
from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.options import Json, check_out, print_json

EPILOG = "Example: corral report runs/mnist-at runs/mnist-corral --out report.html"


def report(
    run: Annotated[list[Path], typer.Argument(help="Evaluated run folders.", autocompletion=complete.measured)],
    out: Annotated[Path, typer.Option(help="The page; its folder is made, but none above that.")] = Path("report.html"),
    robustbench: Annotated[
        Path | None, typer.Option(help="Also write each run's RobustBench model_info into this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained page about evaluated runs."""
    from corral.report import report as write_report

    check_out(out)
    written = []
    if robustbench is not None:
        from corral.report.robustbench import write_model_info

        written = write_model_info(run, folder=robustbench)
    page = write_report(run, out=out)
    if as_json:
        print_json({"report": str(page), **({} if robustbench is None else {"robustbench": list(map(str, written))})})
    else:
        for path in (*written, page):
            typer.echo(f"wrote {path}")
