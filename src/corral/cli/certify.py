"""`corral certify` on the command line: prove radii for a run's test images, attack them, write page and record."""

from pathlib import Path
from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.options import (
    BatchSize,
    Common,
    Images,
    Out,
    Overwrite,
    Processes,
    RunBackbone,
    RunData,
    default_place,
    measuring,
    print_json,
    with_common,
)
from corral.errors import UsageError
from corral.strict import MOST_WHOLE

EPILOG = "Example: corral certify runs/mnist-certified --n 1000 --radius 36/255 --radius 1.58"


@with_common
def certify(
    target: Annotated[
        list[str],
        typer.Argument(
            help="Run folders; or file.py:function that makes a corral Classifier, a file of `corral cluster`.",
            autocompletion=complete.run,
        ),
    ],
    radius: Annotated[
        list[str] | None, typer.Option(help="l2 radius in pixel units, repeatable; default 0, 36, 72, 108, 255/255.")
    ] = None,
    n: Images = None,
    attack: Annotated[bool, typer.Option(help="Try to break the certificates.")] = True,
    data: RunData = None,
    out: Out = None,
    backbone: RunBackbone = None,
    overwrite: Overwrite = False,
    batch_size: BatchSize = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_WHOLE, help="Of the attacks.")] = 0,
    *,
    processes: Processes,
    common: Common,
) -> None:
    """Prove l2 radii for test images and attack them; writes RUN/certificates/l2.json, .npz and .html.

    Of another classifier than a run, on --data, into --out, by default measured/NAME.

    Exit code 1 also where an attack breaks a certificate. Ctrl-C: the same command goes on.
    """
    from corral.evaluation.certificate import BrokenCertificatesError
    from corral.evaluation.certification import RADII, certificate_page, certify_run
    from corral.files import write_atomically
    from corral.report.certificate.page import certificate_sentences, render_certificate

    if out is not None and len(target) > 1:
        raise UsageError(f"--out {out} is of one target, found {len(target)}: leave it out, or call once for each")
    made = []
    for name in target:
        place = default_place(name, out)
        folder = Path(name) if place is None else place
        with measuring(folder):
            try:
                found = certify_run(
                    name,
                    data,
                    radii=radius or RADII,
                    n=n,
                    attack=attack,
                    out=place,
                    backbone=backbone,
                    batch_size=batch_size,
                    seed=seed,
                    overwrite=overwrite,
                    **processes.keywords(),
                    **common.keywords(),
                )
            except BrokenCertificatesError as error:
                page = certificate_page(folder, error.certificate)
                write_atomically(page, render_certificate(error.certificate).encode())
                raise
        page = certificate_page(folder, found)
        write_atomically(page, render_certificate(found).encode())
        made.append((found, page))
    if common.as_json:
        print_json([found.model_dump(mode="json") for found, _ in made])
        return
    for found, page in made:
        typer.echo("\n".join([f"{found.run}:", *(f"  {words}" for words in certificate_sentences(found)), f"  {page}"]))
