"""`corral analyze` on the command line: measure what a run's features are like, write page and documents."""

from pathlib import Path
from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.names import NAMES
from corral.cli.options import (
    Common,
    Out,
    Overwrite,
    RunBackbone,
    RunData,
    default_place,
    interruptible,
    print_json,
    threat_of,
    with_common,
)
from corral.errors import UsageError
from corral.strict import MOST_WHOLE
from corral.zoo import is_shipped

ONLY = f"Only this one, repeatable; default those that fit. One of {', '.join(NAMES['analysis'])}, or your own."
EPILOG = "Example: corral analyze runs/mnist-mat --n 500"


@with_common
def analyze(
    target: Annotated[
        list[str],
        typer.Argument(help="Run folders; or file.py:function that makes a network.", autocompletion=complete.run),
    ],
    only: Annotated[list[str] | None, typer.Option(help=ONLY, autocompletion=complete.names("analysis"))] = None,
    n: Annotated[
        int, typer.Option(min=2, max=MOST_WHOLE, help="This many test images, class-balanced, or all if fewer.")
    ] = 1000,
    eps: Annotated[str | None, typer.Option(help="Of a network that is no run: radius in pixel units.")] = None,
    norm: Annotated[
        str | None, typer.Option(help="And its norm; default Linf.", autocompletion=complete.one_of("Linf", "L2"))
    ] = None,
    normalise: Annotated[
        str | None, typer.Option(help="And what its inputs are normalised by: imagenet, ... or M,M,M/S,S,S.")
    ] = None,
    path: Annotated[Path | None, typer.Option(help="And the folder that its code is imported from.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_WHOLE, help="Of the attacks and of t-SNE.")] = 0,
    data: RunData = None,
    out: Out = None,
    backbone: RunBackbone = None,
    overwrite: Overwrite = False,
    *,
    common: Common,
) -> None:
    """Analyse features, clean and attacked: t-SNE, match rate, cosines, silhouettes, norms, probes, bounds.

    Writes RUN/analyses/NAME.json and RUN/analyses/page.html; of another network into --out, by default measured/NAME.
    Its last linear layer must be evident. Ctrl-C: finished analyses of a run are kept.
    """
    from corral.analysis.analyze import analyze as analyze_model
    from corral.data import load, loaded_once
    from corral.evaluation.protocols import as_threat
    from corral.evaluation.subject import is_run
    from corral.files import write_atomically
    from corral.report.analysis.page import Foreign, analysis_lines, render_analyses
    from corral.training import load_model

    if out is not None and (len(target) > 1 or (is_run(target[0]) and not is_shipped(target[0]))):
        raise UsageError(f"--out {out} is of one network that is no run: leave it out")
    made = []
    for name in target:
        place = default_place(name, out)
        threat = threat_of(name, norm, eps)
        if threat is None and eps is not None:
            raise UsageError(f"{name}: a run is analysed at the threat that it was trained for: leave --eps out")
        kept = f"finished analyses of {name} are kept, the same command goes on"
        with interruptible(kept if threat is None else "call it again"), loaded_once():
            found = analyze_model(
                name,
                data,
                threat=threat,
                only=only,
                n=n,
                seed=seed,
                overwrite=overwrite,
                out=place,
                normalise=normalise,
                path=path,
                backbone=backbone,
                **common.keywords(),
            )
            if threat is None:
                page, words = (place or Path(name)) / "analyses" / "page.html", Path(name).name
                text = render_analyses(words, load_model(name)[2], found)
            else:
                assert place is not None
                assert data is not None
                images = load(data, root=common.data_root)
                page = place / "analyses" / "page.html"
                text = render_analyses(name, Foreign(images.name, list(images.classes), as_threat(threat).norm), found)
        write_atomically(page, text.encode())
        made.append((name, found, page))
    if common.as_json:
        print_json(
            [{"run": name, **{k: a.model_dump(mode="json") for k, a in found.items()}} for name, found, _ in made]
        )
        return
    for name, found, page in made:
        typer.echo(f"{name}:")
        for key, analysis in found.items():
            shown = ", ".join(f"{title} {value}" for title, value in analysis_lines(analysis))
            typer.echo(f"  {key}: {shown or 'see its document'}")
        typer.echo(f"  {page}")
