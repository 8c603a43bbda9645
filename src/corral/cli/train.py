"""`corral train` on the command line: a recipe and a data set into a run folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from corral.cli.options import Common, interruptible, parse_setting, print_json, with_common
from corral.strict import MOST_WHOLE

EPILOG = "Example: corral train corral --data mnist --out runs/mnist-corral --seed 1 --set epochs=10"


@with_common
def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name (see `corral recipes`), a .toml file or a run, as ./at.")
    ],
    data: Annotated[
        str | None,
        typer.Option(help="Set (see `corral data`), folder:PATH, npz:PATH or file.py:function; default the recipe's."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/RECIPE-DATA-SEED.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MOST_WHOLE)] = None,
    eps: Annotated[str | None, typer.Option(help="Radius in pixel units: 0.1 or 8/255.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=MOST_WHOLE, help="Epochs after the warm start.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Recipe key=value, repeatable; key= for its default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    auto_resume: Annotated[
        bool,
        typer.Option("--auto-resume", help="Continue it, or begin it where there is none: for jobs that are requeued."),
    ] = False,
    log: Annotated[
        list[str] | None,
        typer.Option(
            help="Where each epoch's numbers go besides metrics.jsonl: tensorboard (default where it is installed), "
            "wandb, mlflow or file.py:function; repeatable."
        ),
    ] = None,
    *,
    common: Common,
) -> None:
    """Train a classifier by a recipe into a run folder; Ctrl-C leaves a run that --resume continues."""
    from corral.training import RunFolder, load_model, load_recipe, shipped_recipes
    from corral.training import train as train_run
    from corral.training.methods import method_class

    overrides: dict[str, Any] = dict(parse_setting(text) for text in settings or [])
    given = {"training.seed": seed, "threat.eps": eps, "training.epochs": epochs}
    overrides |= {key: value for key, value in given.items() if value is not None}
    resolved = load_recipe(recipe, data=data, overrides=overrides)
    shipped = shipped_recipes()
    if out is None and recipe not in shipped and Path(recipe).is_dir():
        out = Path(recipe)
    folder = out or Path("runs") / f"{_slug(resolved.name)}-{_slug(resolved.data.name)}-{resolved.training.seed}"

    def kept() -> str:
        run = RunFolder(folder)
        what = "the last finished epoch is kept" if run.state.is_file() else "no epoch was finished"
        given = f"./{folder}" if str(folder) in shipped else folder  # else the recipe of that name is meant
        return what + (f"; continue with: corral train {given} --resume" if run.recipe.is_file() else "")

    with interruptible(kept):
        path = train_run(
            resolved, out=folder, resume="auto" if auto_resume else resume, loggers=log or None, **common.keywords()
        )
    _, _, info = load_model(path, encoder=True)
    if common.as_json:
        print_json({"run": str(path), **info.model_dump(mode="json")})
    else:
        ending = "" if info.ending is None else f", {info.ending.words()}"
        typer.echo(f"{path}: {info.method} on {info.data}, {info.epochs} epochs{ending}, {info.train_seconds:.1f} s")
        encoder = method_class(resolved.method).trains == "encoder"
        typer.echo(f"next: corral evaluate {path}{' --fit-heads slf,alf' if encoder else ''}")


def _slug(name: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name.rsplit("/", 1)[-1])
    return kept[:80] or "-"
