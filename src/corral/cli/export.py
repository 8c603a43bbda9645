"""`corral export` on the command line: a run as a file that runs without corral."""

from pathlib import Path
from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.options import Json, RunBackbone, check_out, print_json
from corral.errors import UsageError
from corral.zoo import is_shipped

EPILOG = "Example: corral export runs/mnist-corral --out corral.onnx"


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.", autocompletion=complete.run)],
    out: Annotated[
        Path | None, typer.Option(help=".pt2 (torch.export), .ts (TorchScript) or .onnx; default RUN/model.pt2.")
    ] = None,
    backbone: RunBackbone = None,
    as_json: Json = False,
) -> None:
    """Write a finished run's classifier, pixels in [0, 1] to logits, to a file that needs no corral."""
    if out is not None:
        check_out(out)
    from corral.models.export import export_classifier
    from corral.training import load_model

    if out is None and is_shipped(run):
        raise UsageError(f"{run}: give --out, the file, such as model.pt2")
    model, spec, info = load_model(run, backbone=backbone)
    path = export_classifier(model, out or run / "model.pt2", image_size=spec.image_shape[1:])
    if as_json:
        print_json({"path": str(path), "image_shape": list(spec.image_shape), "classes": info.classes})
    else:
        shape = ", ".join(map(str, spec.image_shape))
        typer.echo(f"wrote {path}: images (N, {shape}) in [0, 1] to logits of {len(info.classes)} classes")
