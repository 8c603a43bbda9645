"""`corral evaluate` on the command line: attack finished runs, print their accuracies."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from corral.cli import complete
from corral.cli.options import (
    BatchSize,
    Common,
    Images,
    Inputs,
    Out,
    Overwrite,
    Processes,
    RunBackbone,
    RunData,
    default_place,
    interruptible,
    measuring,
    print_json,
    print_records,
    threat_of,
    with_common,
)
from corral.errors import UsageError
from corral.strict import MOST_WHOLE

EPILOG = "Example: corral evaluate runs/mnist-corral --protocol standard --n 1000"


class Command(TyperCommand):
    """`evaluate`; its help lists what is registered, which imports torch, so that it is made when it is shown."""

    def get_help(self, ctx: Any) -> str:
        """The help as text."""
        from corral.attacks.protocols import PROTOCOLS
        from corral.attacks.registry import ATTACKS

        listed = {
            "protocol": "; ".join(f"{name}: {protocol.summary}" for name, protocol in PROTOCOLS.items()) + ".",
            "attack": f"Instead of a protocol, repeatable: {', '.join(ATTACKS.names())}, or file.py:function; with "
            "settings as pgd:steps=50,restarts=3.",
        }
        for option in self.params:
            if isinstance(option, TyperOption) and option.name in listed:
                option.help = listed[option.name]
        return super().get_help(ctx)


@with_common
def evaluate(
    target: Annotated[
        list[str],
        typer.Argument(
            help="Run folders; or file.py:function that makes a model, a file of `corral cluster`, a TorchScript or "
            "torch.export file.",
            autocompletion=complete.run,
        ),
    ],
    protocol: Annotated[
        str, typer.Option(help="Which attacks, by the protocol's name.", autocompletion=complete.names("protocol"))
    ] = "quick",
    eps: Annotated[str | None, typer.Option(help="Radius in pixel units: 0.1 or 8/255; default the run's.")] = None,
    norm: Annotated[
        str | None,
        typer.Option(
            help="Linf, L2 or L1, with --eps; default the run's own, else Linf.",
            autocompletion=complete.one_of("Linf", "L2", "L1"),
        ),
    ] = None,
    n: Images = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(help="Instead of a protocol, repeatable.", autocompletion=complete.names("attack")),
    ] = None,
    fit_heads: Annotated[
        str | None,
        typer.Option(help="Fit heads to an encoder first and attack them, such as slf,alf; also aff, nearest, soft."),
    ] = None,
    data: RunData = None,
    out: Out = None,
    backbone: RunBackbone = None,
    overwrite: Overwrite = False,
    batch_size: BatchSize = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_WHOLE, help="Of the attacks' random starts.")] = 0,
    *,
    inputs: Inputs,
    processes: Processes,
    common: Common,
) -> None:
    """Attack runs on their test set, or other models on --data. Ctrl-C: call it again.

    Writes RUN/records/PROTOCOL.json and .npz; of another model into --out, by default measured/NAME.
    """
    from corral.attacks.protocols import PROTOCOLS
    from corral.attacks.registry import parse_attack
    from corral.evaluation.evaluate import evaluate as evaluate_run
    from corral.evaluation.subject import is_run
    from corral.training.run import bring

    PROTOCOLS.find(protocol)
    if attack and protocol != "quick":
        raise UsageError(f"--attack stands instead of a protocol, found --protocol {protocol} too; give one of them")
    chosen = list(dict.fromkeys(attack)) if attack else None
    for text in chosen or ():
        parse_attack(text)
    names, preparation = list(target), inputs.preparation()
    if fit_heads is not None:
        from corral.evaluation.fit_heads import fitted_heads

        kinds = [kind.strip() for kind in fit_heads.split(",")]
        for name in names:
            bring(name, backbone)
        with interruptible("finished epochs are kept; call it again"):
            fitted = [head for name in names for head in fitted_heads(name, kinds, data=data, **common.keywords())]
        names = [str(path) for path in fitted]
    if out is not None and len(names) > 1:
        raise UsageError(f"--out {out} is of one target, found {len(names)}: leave it out, or call once for each")
    records = []
    for name in names:
        place = default_place(name, out)
        with measuring(Path(name if place is None else place)), contextlib.redirect_stdout(sys.stderr):
            records.append(
                evaluate_run(
                    name,
                    data,
                    threat=threat_of(name, norm, eps),
                    protocol=protocol,
                    eps=None if norm is not None or not is_run(name) else eps,
                    n=n,
                    attacks=chosen,
                    out=place,
                    preparation=preparation,
                    path=inputs.path,
                    backbone=backbone,
                    batch_size=batch_size,
                    seed=seed,
                    overwrite=overwrite,
                    **processes.keywords(),
                    **common.keywords(),
                )
            )
    if common.as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        print_records(records)
