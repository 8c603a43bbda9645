"""`corral audit` on the command line: parse, call, write, summarise."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.options import Common, Images, interruptible, print_json, with_common
from corral.errors import UsageError
from corral.strict import MOST_REAL, MOST_WHOLE

if TYPE_CHECKING:
    from corral.audit.record import AuditRecord

EPILOG = "Example: corral audit models.py:load --data cifar10 --eps 8/255 --normalise cifar10 --n 1000 --minutes 30"
EXIT_CODES = {"pass": 0, "masked": 3, "not measured": 4}


@with_common
def audit(
    target: Annotated[
        str, typer.Argument(help="file.py:function, a TorchScript or torch.export file, or a corral run.")
    ],
    data: Annotated[
        str | None,
        typer.Option(help="A set (see `corral data`), folder:PATH, npz:PATH or file.py:function; default a run's own."),
    ] = None,
    eps: Annotated[str | None, typer.Option(help="Radius in pixel units: 0.1 or 8/255; default a run's own.")] = None,
    norm: Annotated[str | None, typer.Option(help="Linf, L2 or L1; default a run's own, else Linf.")] = None,
    minutes: Annotated[
        float, typer.Option(max=MOST_REAL, help="Time budget; AutoAttack does whole images until it ends.")
    ] = 10,
    n: Images = None,
    path: Annotated[
        Path | None, typer.Option(help="The folder that code is imported from, and no other; default the file's own.")
    ] = None,
    normalise: Annotated[
        str | None, typer.Option(help="The model wants normalised inputs: imagenet, cifar10, ... or M,M,M/S,S,S.")
    ] = None,
    scale: Annotated[
        float, typer.Option(max=MOST_REAL, help="The model wants inputs in [0, SCALE], such as 255.")
    ] = 1.0,
    bgr: Annotated[bool, typer.Option("--bgr", help="The model wants channels in the order BGR.")] = False,
    nhwc: Annotated[bool, typer.Option("--nhwc", help="The model wants images (N, H, W, C).")] = False,
    label_offset: Annotated[
        int, typer.Option(min=-MOST_WHOLE, max=MOST_WHOLE, help="Added to the data's labels to get the model's.")
    ] = 0,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Audit it even if it is evidently fed what it was not trained on.")
    ] = False,
    out: Annotated[Path, typer.Option(help="The page; the record goes beside it as .json.")] = Path("audit.html"),
    batch_size: Annotated[int, typer.Option(min=1, max=MOST_WHOLE, help="Most images attacked at once.")] = 128,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_WHOLE, help="Of the order of the images and of the attacks.")
    ] = 0,
    *,
    common: Common,
) -> None:
    """Look for gradient masking in a model and attack it within a time budget; write a page and a record.

    Exit code 0: pass; 3: masked gradients were found; 4: too little was measured for a verdict; 1: it could not be
    audited; 2: wrong usage.
    """
    from corral.audit.audit import audit as run_audit
    from corral.audit.prepare import Preparation, parse_normalise
    from corral.documents import write_document
    from corral.files import check_writable, write_atomically
    from corral.report.audit.page import render_audit

    if out.is_dir() or out.suffix == ".json":
        raise UsageError(f"--out {out} must name the page, such as audit.html; the record goes beside it as .json")
    for path_out in (out, out.with_suffix(".json")):
        check_writable(path_out)
    if not 0 < scale < float("inf"):
        raise UsageError(f"--scale must be above 0, found {scale:g}")
    mean, std = parse_normalise(normalise) if normalise is not None else (None, None)
    # What a foreign model prints must not end up in the result.
    with interruptible("nothing was written"), contextlib.redirect_stdout(sys.stderr):
        record = run_audit(
            target,
            data,
            eps=eps,
            norm=norm,
            minutes=minutes,
            n=n,
            seed=seed,
            path=path,
            preparation=Preparation(scale, mean, std, bgr, nhwc, label_offset),
            as_is=as_is,
            batch_size=batch_size,
            **common.keywords(),
        )
    record = write_document(record, out.with_suffix(".json"))
    write_atomically(out, render_audit(record).encode())
    if common.as_json:
        print_json(record.model_dump(mode="json"))
    else:
        typer.echo("\n".join([*audit_lines(record), f"The page: {out}"]))
    if code := EXIT_CODES[record.verdict]:
        raise typer.Exit(code)


def audit_lines(record: "AuditRecord") -> list[str]:
    """The summary on the terminal: the verdict, the numbers, the findings that matter with their remedies."""
    from corral.audit.record import run_words
    from corral.report.audit.page import audit_verdict

    verdict = audit_verdict(record)
    lines = [verdict.headline, *verdict.sentences]
    if record.reduced:
        lines.append(f"Reduced: {run_words(record)}.")
    for finding in (*record.inputs, *record.findings):
        if finding.verdict in ("masked", "note"):
            lines.append(f"{finding.verdict}: {finding.title}. {finding.explanation} {finding.remedy}".rstrip())
    return lines
