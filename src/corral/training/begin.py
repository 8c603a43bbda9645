"""The call that trains: a recipe and data become a run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from corral.data import AnyData, data_name
from corral.devices import choose_device
from corral.distributed import ranks
from corral.distributed.launch import find_place, must_launch
from corral.errors import UsageError
from corral.files import AnyPath, check_recordable, remove_abandoned
from corral.lock import held
from corral.models.backbones import BackboneLike, named_backbone
from corral.progress import Progress
from corral.training.launched import check_sendable, train_launched
from corral.training.loggers import Logger, find_loggers
from corral.training.loop import Training
from corral.training.recipes.files import load_recipe
from corral.training.recipes.recipe import Recipe
from corral.training.run import Run
from corral.training.start import Resume, finished


def train(
    recipe: AnyPath | Recipe,
    *,
    data: AnyData | None = None,
    out: AnyPath,
    backbone: BackboneLike | None = None,
    features: str | int | None = None,
    data_root: str | Path | None = None,
    resume: Resume = False,
    device: str | torch.device | None = None,
    progress: bool = True,
    loggers: Sequence[str | Logger] | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    eps: float | str | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    **overrides: Any,
) -> Run:
    """Train a classifier by a recipe into a run folder.

    Args:
        recipe: a shipped recipe's name, a TOML file, a run folder (repeats it), or a Recipe.
        data: a data-set name, for which the recipe's values apply; or data of your own, as `corral.data.load` takes
            them, which runs and records call "own/...": later they are recognised by their fingerprint when they are
            given again. Default the recipe's own.
        out: the run folder; must not hold a run already, unless `resume`.
        backbone: instead of the recipe's: a registered name, "file.py:function" or "package.module:function", a module
            (a copy is trained, from its weights), or a function or class that makes one. Its features and their number
            are found (`corral.models.backbones.adapt`). `load` and other processes need it again, unless it has a name.
        features: the layer of that backbone whose output are the features, such as "layer4"; or a number, for one more
            linear layer to so many.
        data_root: folder of the data-set files; default CORRAL_DATA or the per-user cache.
        resume: continue an interrupted run of the same recipe; a finished one is not changed. "auto" begins the run
            where there is none, so that one call serves a job that is started again until it is done.
        device: "cpu", "cuda" ...; default a GPU if there is one.
        progress: show progress on stderr.
        loggers: where each epoch's numbers go besides metrics.jsonl: "tensorboard", "wandb", "mlflow",
            "file.py:function", or a function of (epoch, numbers by name); default TensorBoard where it is installed.
        epochs: of the method; a warm start's come before. Default the recipe's, as for those below.
        seed: of weights, order and random numbers.
        eps: radius in pixel units, 0.1 or "8/255".
        batch_size: images a step.
        learning_rate: the largest of the method's schedule.
        devices: processes that train together on each machine, one a device. In a script that torchrun or srun started
            this process is one of them; otherwise they are started here, and the data must then be named.
        nodes: machines; more than one need torchrun or srun.
        **overrides: other recipe keys, as `clusters=2` or `**{"method.clusters": 2}`; a keyword above goes before the
            key that it stands for.

    Returns:
        The run, which stands for its folder wherever a path is taken: recipe.toml, metrics.jsonl, checkpoints/ and
        model.safetensors are in it, and `run.model`, `run.info`, `run.recipe` and `run.records` read them.

    Raises:
        UsageError: an unknown recipe, key, value, data set or logger, no data, a logger's package that is not
            installed, or another number of processes than was started.
        CorralError: another process trains in the folder, the loss is not finite, a file is damaged or cannot be
            written, or one of several processes was lost.
    """
    place = find_place(devices, nodes)
    typed = {
        "model.backbone": None if backbone is None else named_backbone(backbone),
        "model.layer" if isinstance(features, str) else "model.features": features,
        "training.epochs": epochs,
        "training.seed": seed,
        "threat.eps": eps,
        "training.batch_size": batch_size,
        "training.learning_rate": learning_rate,
    }
    named = {key: value for key, value in typed.items() if value is not None}
    name = None if data is None else data_name(data)
    resolved = load_recipe(recipe, data=name, overrides={**overrides, **named})
    if not isinstance(data, str | None) and resolved.data.name != name:
        raise UsageError(f"data.name {resolved.data.name!r} beside data={name}: leave one of them out")
    folder = Run(out)
    check_recordable(resolved.data.name, resolved.to_toml())
    if must_launch(place, devices, nodes):
        check_sendable(data, backbone, loggers)
        train_launched(resolved, folder, devices or 1, data_root, resume, device, progress, loggers)
        return folder
    with ranks.together(place):
        # Nobody trains what is finished or is no run.
        idle = folder.model_file.is_file() or not folder.recipe_file.is_file()
        if not ranks.on_first(lambda: idle and finished(folder, resolved, resume=resume)):
            kinds, where = find_loggers(loggers), choose_device(device)
            with ranks.held_by_first(lambda: held(folder.path, "train")):
                if not ranks.on_first(lambda: finished(folder, resolved, resume=resume)):
                    ranks.on_first(lambda: remove_abandoned(folder.state_file.parent))
                    given = None if isinstance(data, str) else data
                    training = Training(
                        resolved, folder, where, data=given, data_root=data_root, progress=progress, loggers=kinds
                    )
                    training.begin(resume=resume is not False)
                    training.execute()
                    return folder
        told = progress and ranks.is_first()
    Progress("", 0, "", enabled=told).say(f"{folder.path}: finished already")
    return folder
