"""`corral evaluate` on the command line: attack finished runs, print their accuracies."""

from pathlib import Path
from typing import Annotated

import typer

from corral.cli.options import (
    BatchSize,
    DataRoot,
    Device,
    Fresh,
    Images,
    Json,
    Quiet,
    Threads,
    interruptible,
    kept_batches,
    print_json,
    print_records,
    set_threads,
)
from corral.errors import UsageError

EPILOG = "Example: corral evaluate runs/mnist-corral --protocol standard --n 1000"


def evaluate(
    run: Annotated[list[Path], typer.Argument(help="Run folders.")],
    protocol: Annotated[
        str,
        typer.Option(help="quick, paper, centred (MMC, MAT), encoder (PGD-20), standard (AutoAttack), adaptive."),
    ] = "quick",
    eps: Annotated[str | None, typer.Option(help="Radius in pixel units: 0.1 or 8/255; default the run's.")] = None,
    n: Images = None,
    attack: Annotated[list[str] | None, typer.Option(help="PGD preset instead of a protocol, repeatable.")] = None,
    linear: Annotated[
        str | None,
        typer.Option(help="Fit heads to an encoder first and attack them, such as slf,alf; also aff, nearest, soft."),
    ] = None,
    fresh: Fresh = False,
    batch_size: BatchSize = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the attacks' random starts.")] = 0,
    device: Device = None,
    data_root: DataRoot = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Attack finished runs on their test set; writes RUN/records/PROTOCOL.json and .npz. Ctrl-C: call it again."""
    from corral.attacks import PROTOCOLS
    from corral.evaluation.evaluate import evaluate as evaluate_run
    from corral.evaluation.protocols import PROTOCOL_NAMES

    set_threads(threads)
    if protocol not in PROTOCOL_NAMES:
        raise UsageError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOL_NAMES)}")
    unknown = [name for name in attack or [] if name not in PROTOCOLS]
    if unknown:
        raise UsageError(f"unknown attack {unknown[0]!r}; known: {', '.join(PROTOCOLS)}")
    if attack and protocol != "quick":
        raise UsageError(f"--attack stands instead of a protocol, found --protocol {protocol} too; give one of them")
    chosen = [PROTOCOLS[name] for name in dict.fromkeys(attack)] if attack else None
    if linear is not None:
        from corral.evaluation.linear import linear_runs

        kinds = [kind.strip() for kind in linear.split(",")]
        with interruptible(lambda: "finished epochs are kept; call it again"):
            run = [
                head
                for path in run
                for head in linear_runs(path, kinds, data_root=data_root, device=device, progress=not quiet)
            ]
    records = []
    for path in run:
        with interruptible(kept_batches(path)):
            records.append(
                evaluate_run(
                    path,
                    protocol=protocol,
                    eps=eps,
                    n=n,
                    attacks=chosen,
                    batch_size=batch_size,
                    seed=seed,
                    fresh=fresh,
                    device=device,
                    data_root=data_root,
                    progress=not quiet,
                )
            )
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        print_records(records)
