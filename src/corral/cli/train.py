"""`corral train` on the command line: a recipe and a data set into a run folder."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from corral.cli import complete
from corral.cli.options import (
    Common,
    Processes,
    interruptible,
    parse_setting,
    print_json,
    with_common,
)
from corral.cli.run_facts import epochs_words
from corral.errors import UsageError
from corral.strict import MOST_WHOLE

if TYPE_CHECKING:
    from corral.training import Recipe
    from corral.training.start import Resume

EPILOG = "Example: corral train corral --data mnist --out runs/mnist-corral --seed 1 --set epochs=10"


class Command(TyperCommand):
    """`train`; of its options `--seeds` takes as many numbers as follow it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments with "--seeds" before every seed, as the parser wants it."""
        found: list[str] = []
        seeds = False
        for argument in args:
            if seeds and argument.isdecimal() and found[-1] != "--seeds":
                found.append("--seeds")
            elif not argument.isdecimal():
                seeds = argument.partition("=")[0] == "--seeds"
            found.append(argument)
        return super().parse_args(ctx, found)


@with_common
def train(
    context: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe's name (see `corral recipes`), a .toml file or a run, as ./at.",
            autocompletion=complete.recipe_or_run,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Set (see `corral data`), folder:PATH, npz:PATH or file.py:function; default the recipe's.",
            autocompletion=complete.names("data set"),
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder, made with those above it; default runs/RECIPE-DATA-SEED.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Your own: file.py:function or package.module:function; or a name.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="The layer of that backbone that gives the features, such as layer4.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MOST_WHOLE, help="Default the recipe's.")] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option(
            min=0, max=MOST_WHOLE, help="One run a seed, as --seeds 0 1 2, each in a folder of its own: OUT-SEED."
        ),
    ] = None,
    eps: Annotated[str | None, typer.Option(help="Radius in pixel units: 0.1 or 8/255.")] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_WHOLE, help="Epochs of the method; a warm start's come before and are counted apart."
        ),
    ] = None,
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
            "wandb, mlflow or file.py:function; repeatable.",
            autocompletion=complete.names("logger"),
        ),
    ] = None,
    *,
    processes: Processes,
    common: Common,
) -> None:
    """Train a classifier by a recipe into a run folder; Ctrl-C leaves a run that --resume continues.

    With --seeds, one run a seed: those in the folders of an earlier call are continued by --resume, the others begun.
    """
    from corral.models.backbones import named_backbone
    from corral.training import shipped_recipes
    from corral.training import train as train_run
    from corral.training.methods import method_class

    if seeds and seed is not None:
        raise UsageError(f"--seeds names every seed, found --seed {seed} too; give one of them")
    overrides: dict[str, Any] = dict(parse_setting(text) for text in settings or [])
    if backbone is not None:
        overrides["model.backbone"] = named_backbone(backbone)
    given = {"model.layer": features, "training.seed": seed, "threat.eps": eps, "training.epochs": epochs}
    overrides |= {key: value for key, value in given.items() if value is not None}
    if out is None and not seeds and recipe not in shipped_recipes() and Path(recipe).is_dir():
        out = Path(recipe)
    planned = _planned(recipe, data, out, overrides, seeds)
    how: Resume = "auto" if auto_resume else resume
    if seeds:
        how = _resume_of_seeds(planned, how)
    made: list[Path] = []
    for resolved, folder in planned:
        with interruptible(partial(_kept, folder, made, planned)):
            train_run(
                resolved, out=folder, resume=how, loggers=log or None, **processes.keywords(), **common.keywords()
            )
            made.append(folder)
        if not common.as_json:
            typer.echo(_summary(folder))
    if common.as_json:
        facts = [_facts(folder) for folder in made]
        print_json(facts if seeds else facts[0])
        return
    paths = " ".join(map(str, made))
    if seeds:
        typer.echo(f"made {len(made)} {'run' if len(made) == 1 else 'runs'}, one a seed: {paths}")
    encoder = method_class(planned[0][0].method).trains == "encoder"
    heads, own = " --fit-heads slf,alf" if encoder else "", f" --backbone {backbone}" if ":" in (backbone or "") else ""
    plugins = _plugins(context.find_root().params.get("plugin") or (), planned[0][0])
    typer.echo(f"next: corral {plugins}evaluate {paths}{heads}{own}")


def _plugins(named: Sequence[str], recipe: "Recipe") -> str:
    """The options by which another command knows a method of the user's own."""
    place, colon, _ = recipe.method.name.rpartition(":")
    return "".join(f"--plugin {one} " for one in dict.fromkeys([*named, *([place] if colon else [])]))


def _planned(
    recipe: str, data: str | None, out: Path | None, overrides: dict[str, Any], seeds: list[int] | None
) -> list[tuple["Recipe", Path]]:
    """What is trained, and into which folders."""
    from corral.training import load_recipe

    if not seeds:
        resolved = load_recipe(recipe, data=data, overrides=overrides)
        return [(resolved, out or _default_folder(resolved))]
    if out is not None and not out.name:
        raise UsageError(f"--out {out}: with --seeds it needs a name that the seeds stand behind, such as runs/mine")
    planned = []
    for seed in dict.fromkeys(seeds):
        resolved = load_recipe(recipe, data=data, overrides={**overrides, "training.seed": seed})
        planned.append((resolved, _default_folder(resolved) if out is None else out.with_name(f"{out.name}-{seed}")))
    return planned


def _default_folder(recipe: "Recipe") -> Path:
    return Path("runs") / f"{_slug(recipe.name)}-{_slug(recipe.data.name)}-{recipe.training.seed}"


def _resume_of_seeds(planned: list[tuple["Recipe", Path]], how: "Resume") -> "Resume":
    """How each of several runs is begun or continued; refuses what one would refuse before the first is trained."""
    from corral.training import Run
    from corral.training.start import finished

    if how is True and any(Run(folder).recipe_file.is_file() for _, folder in planned):
        how = "auto"  # some were begun, the others are now
    for resolved, folder in planned:
        finished(Run(folder), resolved, resume=how)
    return how


def _kept(folder: Path, made: list[Path], planned: list[tuple["Recipe", Path]]) -> str:
    """What an interruption leaves, and the command that continues it."""
    from corral.training import Run, shipped_recipes

    run = Run(folder)
    what = "the last finished epoch is kept" if run.state_file.is_file() else "no epoch was finished"
    if len(planned) > 1:
        done = f"{len(made)} of {len(planned)} runs are finished, of {folder} {what}"
        return f"{done}; the same command with --resume goes on"
    given = f"./{folder}" if str(folder) in shipped_recipes() else folder  # else the recipe of that name is meant
    return what + (f"; continue with: corral train {given} --resume" if run.recipe_file.is_file() else "")


def _facts(folder: Path) -> dict[str, Any]:
    """A finished run for machines."""
    from corral.training import load_model

    return {"run": str(folder), **load_model(folder, encoder=True)[2].model_dump(mode="json")}


def _summary(folder: Path) -> str:
    """A finished run in one line."""
    from corral.training import load_model

    info = load_model(folder, encoder=True)[2]
    ending = "" if info.ending is None else f", {info.ending.words()}"
    epochs = epochs_words(folder, info.epochs)
    return f"{folder}: {info.method} on {info.data}, {epochs}{ending}, {info.train_seconds:.1f} s"


def _slug(name: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name.rsplit("/", 1)[-1])
    return kept[:80] or "-"
