"""`corral audit` on the command line: parse, call, write, summarise."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli import complete
from corral.cli.headers import read_document
from corral.cli.options import (
    Common,
    Images,
    Inputs,
    Processes,
    RunBackbone,
    check_out,
    file_stem,
    interruptible,
    print_json,
    with_common,
)
from corral.cli.streams import Colour, say
from corral.errors import CorralError, UsageError
from corral.strict import MOST_REAL, MOST_WHOLE

if TYPE_CHECKING:
    from corral.audit.record import AuditRecord

EPILOG = "Example: corral audit models.py:load --data cifar10 --eps 8/255 --normalise cifar10 --n 1000 --minutes 30"
COLOURS: dict[str, Colour] = {"Pass": "green", "Masked": "red", "masked": "red", "Not measured": "yellow"}
COLOURS |= {"note": "yellow", "Reduced": "yellow"}
EXIT_CODES = {"pass": 0, "masked": 3, "not measured": 4}


@with_common
def audit(
    target: Annotated[
        str,
        typer.Argument(
            help="file.py:function, a TorchScript or torch.export file, or a corral run.", autocompletion=complete.run
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="A set (see `corral data`), folder:PATH, npz:PATH or file.py:function; default a run's own.",
            autocompletion=complete.names("data set"),
        ),
    ] = None,
    eps: Annotated[str | None, typer.Option(help="Radius in pixel units: 0.1 or 8/255; default a run's own.")] = None,
    norm: Annotated[
        str | None,
        typer.Option(
            help="Linf, L2 or L1; default a run's own, else Linf.", autocompletion=complete.one_of("Linf", "L2", "L1")
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(max=MOST_REAL, help="Time budget; AutoAttack does whole images until it ends.")
    ] = 10,
    n: Images = None,
    backbone: RunBackbone = None,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Audit it even if it is evidently fed what it was not trained on.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="The page; the record goes beside it as .json. A page of another model is kept.")
    ] = Path("audit.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace even a page of another model.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=MOST_WHOLE, help="Most images attacked at once.")] = 128,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_WHOLE, help="Of the order of the images and of the attacks.")
    ] = 0,
    *,
    inputs: Inputs,
    processes: Processes,
    common: Common,
) -> None:
    """Look for gradient masking in a model and attack it within a time budget; write a page and a record.

    Exit code 0: pass; 3: masked gradients were found; 4: too little was measured for a verdict; 1: it could not be
    audited; 2: wrong usage.
    """
    from corral.audit.audit import audit as run_audit
    from corral.distributed import ranks
    from corral.documents import write_document
    from corral.files import write_atomically
    from corral.report.audit.page import render_audit

    if out.is_dir() or out.suffix == ".json":
        raise UsageError(f"--out {out} must name the page, such as audit.html; the record goes beside it as .json")
    for path_out in (out, out.with_suffix(".json")):
        check_out(path_out)
    if not overwrite:
        _check_replaceable(out, target)
    preparation = inputs.preparation()
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
            path=inputs.path,
            backbone=backbone,
            preparation=preparation,
            as_is=as_is,
            batch_size=batch_size,
            **processes.keywords(),
            **common.keywords(),
        )
    if not ranks.speaks():
        return
    record = write_document(record, out.with_suffix(".json"))
    write_atomically(out, render_audit(record).encode())
    if common.as_json:
        print_json(record.model_dump(mode="json"))
    else:
        for line in audit_lines(record):
            word, colon, rest = line.partition(": ")
            say(word + colon, rest, COLOURS.get(word))
        typer.echo(f"The page: {out}")
    if code := EXIT_CODES[record.verdict]:
        raise typer.Exit(code)


def _check_replaceable(page: Path, target: str) -> None:
    """Refuse to write over what is not a page of the same model, before the time budget is spent.

    Raises:
        UsageError: something else lies there.
    """
    record = page.with_suffix(".json")
    if not page.exists() and not record.exists():
        return
    remedy = f"give --out {page.with_name(f'audit-{file_stem(target)}.html')}, or --overwrite"
    try:
        found = str(read_document(record, kind="audit").get("target"))
    except CorralError as error:
        raise UsageError(f"{page}: whether it is a page of this model cannot be told ({error}); {remedy}") from error
    if os.path.normpath(found) != os.path.normpath(target):
        raise UsageError(f"{page}: the page of another model ({found}); {remedy}")


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
