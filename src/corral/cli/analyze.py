"""`corral analyze` on the command line: measure what a run's features are like, write page and documents."""

from pathlib import Path
from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.names import NAMES
from corral.cli.options import Common, Overwrite, RunBackbone, RunData, interruptible, print_json, with_common
from corral.strict import MOST_WHOLE

ONLY = f"Only this one, repeatable; default those that fit. One of {', '.join(NAMES['analysis'])}, or your own."
EPILOG = "Example: corral analyze runs/mnist-mat --n 500"


@with_common
def analyze(
    run: Annotated[list[Path], typer.Argument(help="Run folders.", autocompletion=complete.run)],
    only: Annotated[list[str] | None, typer.Option(help=ONLY, autocompletion=complete.names("analysis"))] = None,
    n: Annotated[
        int, typer.Option(min=2, max=MOST_WHOLE, help="This many test images, class-balanced, or all if fewer.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=MOST_WHOLE, help="Of the attacks and of t-SNE.")] = 0,
    data: RunData = None,
    backbone: RunBackbone = None,
    overwrite: Overwrite = False,
    *,
    common: Common,
) -> None:
    """Analyse runs' features, clean and attacked: t-SNE, match rate, cosines, silhouettes, norms, probes, bounds.

    Writes RUN/analyses/NAME.json and RUN/analyses/page.html. Ctrl-C: finished analyses are kept.
    """
    from corral.analysis.analyze import analyze as analyze_run
    from corral.files import write_atomically
    from corral.report.analysis.page import analysis_lines, render_analyses
    from corral.training import load_model
    from corral.training.run import bring

    made = []
    for path in run:
        bring(path, backbone)
        with interruptible(f"finished analyses of {path} are kept, the same command goes on"):
            found = analyze_run(path, only=only, n=n, seed=seed, overwrite=overwrite, data=data, **common.keywords())
        page = path / "analyses" / "page.html"
        write_atomically(page, render_analyses(path.name, load_model(path)[2], found).encode())
        made.append((path, found, page))
    if common.as_json:
        print_json(
            [{"run": str(path), **{k: a.model_dump(mode="json") for k, a in found.items()}} for path, found, _ in made]
        )
        return
    for path, found, page in made:
        typer.echo(f"{path}:")
        for name, analysis in found.items():
            shown = ", ".join(f"{title} {value}" for title, value in analysis_lines(analysis))
            typer.echo(f"  {name}: {shown or 'see its document'}")
        typer.echo(f"  {page}")
