"""`corral evaluate` on the command line: attack finished runs, print their accuracies."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from corral.cli import complete
from corral.cli.options import (
    BatchSize,
    Common,
    Images,
    Overwrite,
    RunBackbone,
    RunData,
    interruptible,
    measuring,
    print_json,
    print_records,
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
    run: Annotated[list[Path], typer.Argument(help="Run folders.", autocompletion=complete.run)],
    protocol: Annotated[
        str, typer.Option(help="Which attacks, by the protocol's name.", autocompletion=complete.names("protocol"))
    ] = "quick",
    eps: Annotated[str | None, typer.Option(help="Radius in pixel units: 0.1 or 8/255; default the run's.")] = None,
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
    backbone: RunBackbone = None,
    overwrite: Overwrite = False,
    batch_size: BatchSize = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_WHOLE, help="Of the attacks' random starts.")] = 0,
    *,
    common: Common,
) -> None:
    """Attack finished runs on their test set; writes RUN/records/PROTOCOL.json and .npz. Ctrl-C: call it again."""
    from corral.attacks.protocols import PROTOCOLS
    from corral.attacks.registry import parse_attack
    from corral.evaluation.evaluate import evaluate as evaluate_run
    from corral.training.run import bring

    PROTOCOLS.find(protocol)
    if attack and protocol != "quick":
        raise UsageError(f"--attack stands instead of a protocol, found --protocol {protocol} too; give one of them")
    chosen = list(dict.fromkeys(attack)) if attack else None
    for text in chosen or ():
        parse_attack(text)
    for path in run:
        bring(path, backbone)
    if fit_heads is not None:
        from corral.evaluation.fit_heads import fitted_heads

        kinds = [kind.strip() for kind in fit_heads.split(",")]
        with interruptible("finished epochs are kept; call it again"):
            run = [head for path in run for head in fitted_heads(path, kinds, data=data, **common.keywords())]
    records = []
    for path in run:
        with measuring(path):
            records.append(
                evaluate_run(
                    path,
                    protocol=protocol,
                    eps=eps,
                    n=n,
                    attacks=chosen,
                    batch_size=batch_size,
                    seed=seed,
                    overwrite=overwrite,
                    data=data,
                    **common.keywords(),
                )
            )
    if common.as_json:
        print_json([record.model_dump(mode="json") for record in records])
    else:
        print_records(records)
