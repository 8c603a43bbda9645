"""`corral cluster` on the command line: a trained network as a classifier by clusters of its features, in a file."""

from pathlib import Path
from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.options import Common, check_out, interruptible, print_json, with_common
from corral.errors import UsageError
from corral.strict import MOST_WHOLE

EPILOG = "Example: corral cluster models.py:load --data cifar10 --features layer4 --clusters 2 --out it.safetensors"


@with_common
def cluster(
    target: Annotated[
        str, typer.Argument(help="file.py:function that makes the network, or a run.", autocompletion=complete.run)
    ],
    data: Annotated[
        str,
        typer.Option(
            help="A set (see `corral data`), folder:PATH, npz:PATH or file.py:function; its training images.",
            autocompletion=complete.names("data set"),
        ),
    ],
    clusters: Annotated[str, typer.Option(help="Of each class; or silhouette, which chooses 1 to 8.")] = "1",
    rule: Annotated[str, typer.Option(help="soft, nearest, fuzzy or a number of nearest ones that count.")] = "soft",
    features: Annotated[
        str | None, typer.Option(help="The layer that gives the features, such as layer4; default it is found.")
    ] = None,
    normalise: Annotated[
        str | None, typer.Option(help="The network wants normalised inputs: imagenet, cifar10, ... or M,M,M/S,S,S.")
    ] = None,
    n: Annotated[
        int | None, typer.Option(min=1, max=MOST_WHOLE, help="This many training images, class-balanced; default all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_WHOLE, help="Of k-means' starts.")] = 0,
    path: Annotated[Path | None, typer.Option(help="The folder that code is imported from.")] = None,
    out: Annotated[Path, typer.Option(help="The file.")] = Path("clusters.safetensors"),
    *,
    common: Common,
) -> None:
    """Make a classifier by clusters of a trained network's features: k-means of every class, without any training.

    evaluate, certify, analyze and audit take the file; where the network is your code, with --backbone TARGET.
    """
    from corral.clustering import cluster as make
    from corral.models.heads import HeadRule

    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out} must end in .safetensors")
    check_out(out)
    words: int | str = int(clusters) if clusters.isdecimal() else clusters
    how: HeadRule = int(rule) if rule.isdecimal() else rule  # type: ignore[assignment]
    with interruptible("nothing was written"):
        model = make(
            target,
            data,
            clusters=words,
            rule=how,
            features=features,
            normalise=normalise,
            n=n,
            seed=seed,
            path=path,
            **common.keywords(),
        )
    model.save(out)
    head = model.head
    count = 0 if head.clusters is None else len(head.clusters.centroids)
    if common.as_json:
        print_json({"path": str(out), "clusters": count, "classes": model.num_classes, "features": model.features_dim})
        return
    typer.echo(f"wrote {out}: {count} clusters of {model.num_classes} classes, {model.features_dim} features")
    own = model.spec is not None and ":" in model.spec.backbone.name
    typer.echo(f"next: corral evaluate {out} --data {data} --eps 8/255{f' --backbone {target}' if own else ''}")
