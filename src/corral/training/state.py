"""Saving and restoring a run: its training state and its model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from corral.checkpoints import (
    load_optimiser,
    load_tensors,
    optimiser_tensors,
    read_checkpoint,
    write_checkpoint,
)
from corral.checksums import checksum, edited
from corral.devices import device_name
from corral.errors import CorralError, UsageError
from corral.files import write_atomically
from corral.models.saved import probe
from corral.strict import Seconds
from corral.training.convergence import Ending
from corral.training.optimisers import state_names
from corral.training.recipes.files import recipe_checksum
from corral.training.run import RunInfo, read_epochs, save_model
from corral.version import __version__

if TYPE_CHECKING:
    from corral.training.loop import Training


def save_state(run: "Training") -> None:
    """Write the state that the remaining epochs depend on."""
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    tensors |= {f"optimiser.{name}": tensor for name, tensor in optimiser_tensors(run.optimiser).items()}
    if not run.warming:
        tensors |= {f"method.{name}": tensor for name, tensor in run.method.tensors().items()}
    if run.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in run.average.tensors().items()}
    if run.context.soft.class_means is not None:
        tensors |= {"class_means": run.context.soft.class_means}
    tensors |= {"order": run.order.get_state(), "noise": run.noise.get_state()}
    metadata = {
        "kind": "training",
        "epoch": run.epoch,
        "warm_epochs": run.warm_epochs,
        "seconds": run.clock.wall,
        "work_seconds": run.clock.work,
        "accuracies": run.accuracies,
        "robust": run.robust,
        "best": run.best,
        "validated": run.validated,
        "started_from": run.started_from,
        "data_fingerprint": run.data.fingerprint,
        "unlabeled_fingerprint": run.data.unlabeled_fingerprint if run.recipe.data.unlabeled else None,
        "picture_files": _picture_files(run),
        "device": run.device.type,
        "metrics_sha256": checksum(read_epochs(run.folder.metrics_file)),
    }
    write_checkpoint(run.folder.state_file, tensors, metadata)


def _picture_files(run: "Training") -> str | None:
    """The names and sizes of the files whose random parts the run trains on; None where it takes none."""
    return run.images.files() if run.recipe.data.random_resized_crop else None


def restore_state(run: "Training") -> None:
    """Resume a run from its last checkpoint; metrics of later epochs are dropped.

    Raises:
        UsageError: the run was on another kind of device.
        CorralError: the checkpoint is damaged or of other data.
    """
    path = run.folder.state_file
    tensors, metadata = read_checkpoint(path, kind="training")
    try:
        _take(run, tensors, metadata, path)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:  # parts missing or of other shapes
        reason = f"missing {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise CorralError(
            f"{path}: not a checkpoint of this run ({reason}); delete it to begin again with --resume"
        ) from error
    kept = [entry for entry in read_epochs(run.folder.metrics_file) if entry["epoch"] <= run.epoch]
    if metadata.get("metrics_sha256") not in (None, checksum(kept)):
        edited(run.folder.metrics_file, remedy="restore it, or train again in another folder")
    write_atomically(run.folder.metrics_file, "".join(json.dumps(entry) + "\n" for entry in kept).encode())
    run.say(f"{run.folder.path}: resumed after {run.epoch_words(run.epoch)}")


def save_weights(run: "Training", path: Path) -> None:
    """Write the model as it is now, with its `RunInfo`."""
    spec = run.spec.with_head(run.model.head)
    weights, own = (run.warm if run.warming else run.method).weights(), run.model.state_dict()
    # A method may save others than those of the model in training, such as one of two BatchNorms a layer.
    as_trained = weights.keys() == own.keys() and all(torch.equal(weights[name], own[name]) for name in own)
    info = RunInfo(
        recipe=run.recipe.name,
        method=run.recipe.method.name,
        data=run.data.name,
        data_fingerprint=run.data.fingerprint,
        classes=list(run.data.classes),
        norm=run.recipe.threat.norm,
        eps=run.recipe.threat.eps,
        seed=run.recipe.training.seed,
        epochs=run.epoch,
        started_from=run.started_from,
        train_images=len(run.images),
        **outcome(run),
        validation=run.validated,
        probe=probe(run.model, spec) if as_trained else None,
        corral=__version__,
        torch=torch.__version__,
        device=device_name(run.device),
    )
    save_model(path, weights, spec, info)


def outcome(run: "Training") -> dict[str, Any]:
    """What is of the whole run, whichever epoch's weights are saved: seconds, ending, files; fields of `RunInfo`."""
    ending, training = None, run.recipe.training
    if training.converged is not None or training.patience is not None or run.method.stops:
        met = run.converged and run.stopped is None
        ending = Ending(
            converged=None if training.converged is None else met,
            epochs=max(run.epoch - run.warm_epochs, 0),
            warm_epochs=run.warm_epochs,
            stopped=run.stopped,
        )
    return {
        "train_seconds": run.clock.wall,
        "work_seconds": run.clock.work,
        "work_clock": None if run.clock.work is None else run.clock.kind,
        "ending": ending,
        "recipe_sha256": recipe_checksum(run.recipe.to_toml()),
        "metrics_sha256": checksum(read_epochs(run.folder.metrics_file) if run.folder.metrics_file.is_file() else []),
    }


def _accuracies(run: "Training", metadata: dict[str, Any], name: str, *, wanted: bool) -> list[float]:
    """The held-out accuracies of the method's epochs, none where no criterion of the recipe looks at them.

    Raises:
        ValueError: those of other epochs.
    """
    found = [float(accuracy) for accuracy in metadata.get(name, [])]  # not in checkpoints of earlier versions
    expected = max(run.epoch - run.warm_epochs, 0) if wanted else 0
    if len(found) != expected:
        raise ValueError(f"validation accuracies of {len(found)} epochs, expected {expected}")
    return found


def _seconds(value: Any) -> float:
    """Seconds as a run's facts may have them; ValueError where they cannot be."""
    return float(TypeAdapter(Seconds).validate_python(value))


def _take(run: "Training", tensors: dict[str, Tensor], metadata: dict[str, Any], path: Path) -> None:
    """Take back what `save_state` wrote."""
    if metadata["data_fingerprint"] != run.data.fingerprint:
        found, expected = run.data.fingerprint, metadata["data_fingerprint"]
        raise CorralError(
            f"{path}: the data changed since the run began (fingerprint {found}, was {expected}); restore them"
        )
    if run.recipe.data.unlabeled and metadata.get("unlabeled_fingerprint") != run.data.unlabeled_fingerprint:
        raise CorralError(f"{path}: the images without labels changed since the run began; restore them")
    if metadata.get("picture_files") != _picture_files(run):  # None in checkpoints of earlier versions
        raise CorralError(f"{path}: files of training images changed since the run began; restore them")
    if metadata["device"] != run.device.type:
        raise UsageError(f"{path}: the run was on {metadata['device']}; resume it with --device {metadata['device']}")
    run.epoch, run.warm_epochs = int(metadata["epoch"]), int(metadata["warm_epochs"])
    if not 0 <= run.epoch <= run.total_epochs or not 0 <= run.warm_epochs <= run.recipe.training.warm_start.epochs:
        raise ValueError(f"epoch {run.epoch} after {run.warm_epochs} of warm start is outside the recipe's epochs")
    run.best = float(metadata["best"])
    work = metadata.get("work_seconds")  # not in checkpoints of earlier versions
    run.clock.wall, run.clock.work = _seconds(metadata["seconds"]), None if work is None else _seconds(work)
    run.accuracies = _accuracies(run, metadata, "accuracies", wanted=run.recipe.training.converged is not None)
    run.robust = _accuracies(run, metadata, "robust", wanted=run.recipe.training.patience is not None)
    run.validated = dict(metadata["validated"])
    run.started_from = metadata.get("started_from")
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}, "method": {}, "average": {}}
    for name, tensor in tensors.items():
        if "." in name:
            part, rest = name.split(".", 1)
            parts[part][rest] = tensor
    run.enter_phase(fresh=False)
    load_tensors(run.model, parts["model"], path)
    if run.recipe.training.start is not None:
        run.take_normalisation()
    moved = run.epoch not in (0, run.warm_epochs) and bool(run.method.replays)
    load_optimiser(run.optimiser, parts["optimiser"], names=state_names(run.optimiser), moved=moved)
    if not run.warming:
        run.method.load(parts["method"])
    if run.average is not None:
        run.average.load(parts["average"])
    soft, begun = run.context.soft, run.epoch > run.warm_epochs
    if soft.class_weight > 0 and begun:
        soft.class_means = soft.checked(tensors["class_means"], len(run.data.classes), run.device)
    run.order.set_state(tensors["order"])
    run.noise.set_state(tensors["noise"])
