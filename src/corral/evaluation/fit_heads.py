"""Heads for an encoder's run, fitted on its frozen features or fine-tuned with them: each a run like any other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corral.data import AnyData, data_name
from corral.errors import CorralError, UsageError
from corral.files import AnyPath
from corral.models import Classifier
from corral.models.fingerprint import fingerprint
from corral.training import Run, load_model, load_recipe, train
from corral.training.methods import METHODS
from corral.training.start import data_of
from corral.zoo import is_shipped


def fitted_heads(
    run: AnyPath,
    kinds: Sequence[str],
    *,
    data: AnyData | None = None,
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> list[Path]:
    """Fit heads to the features of a run; those already fitted to these weights are taken as they are.

    Args:
        run: folder of an encoder, or of any classifier, whose own head is left aside.
        kinds: linear heads on frozen features, "slf" of clean images and "alf" of adversarial ones, at the run's norm
            and eps; "aff", adversarial fine-tuning of all weights by TRADES; cluster heads on frozen features, without
            any training, "nearest" and "soft".
        data: where the run's data lie now, or the data, as `corral.data.load` takes them; default where they lay at
            training. The images must be the same, by their fingerprint.
        data_root, device, progress: as `train` takes them.

    Returns:
        The run folders, `RUN/linear/NAME-KIND`.

    Raises:
        UsageError: no kind, or an unknown one; a file instead of a run folder.
        CorralError: no finished run, or heads that were fitted to other weights.
    """
    # The methods that go on from an encoder with labels make a classifier of it.
    known = sorted(
        name for name, method in METHODS.items() if method.needs_labels and method.continues_from == "encoder"
    )
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        name = unknown[0] if unknown else ""
        raise UsageError(f"unknown linear evaluation {name!r}; known: {', '.join(known)}")
    if Path(run).is_file() or is_shipped(run):
        what = "a model that comes with corral" if is_shipped(run) else "a file"
        raise UsageError(f"{run}: {what}; heads are kept in the folder of their encoder's run: name that")
    encoder, _, info = load_model(run, encoder=True)
    begun, frozen = fingerprint(encoder.backbone), _before_the_head(encoder)
    parent = load_recipe(Path(run))
    given = None if data is None else data_of(run, info, data=data, root=data_root)
    shared: dict[str, Any] = {f"model.{name}": value for name, value in parent.model.model_dump().items()} | {
        "data.train": None if parent.data.unlabeled else parent.data.train,  # heads need labelled images
        "data.validation": parent.data.validation,
        "threat.norm": parent.threat.norm,
        "threat.eps": parent.threat.eps,
        "training.seed": parent.training.seed,
    }
    overrides = {key: value for key, value in shared.items() if value is not None}
    found = []
    for kind in dict.fromkeys(kinds):
        folder = Run(Path(run) / "linear" / f"{Path(run).resolve().name}-{kind}")
        resume, start = folder.recipe_file.is_file(), str(Path(run).resolve())
        name = parent.data.name if data is None else data_name(data)
        if resume:
            before = load_recipe(folder.path)
            if before.training.start != start and not folder.model_file.is_file():
                raise CorralError(
                    f"{folder.path}: it was begun where the encoder lay then, {before.training.start}; delete the "
                    "folder"
                )
            if folder.model_file.is_file():
                # Folder or data were moved since the head was fitted; whether it is the same encoder is checked below.
                start, name = str(before.training.start), before.data.name
        overrides["training.start"] = start
        recipe = load_recipe(kind, data=name, overrides=overrides)
        again = None if isinstance(data, str) or folder.model_file.is_file() else given
        train(recipe, data=again, out=folder.path, resume="auto", device=device, data_root=data_root, progress=progress)
        model, _, fitted = load_model(folder.path)
        kept = _before_the_head(model) if METHODS[kind].trains == "head" else {}
        if fitted.started_from != begun or any(not torch.equal(tensor, frozen[name]) for name, tensor in kept.items()):
            raise CorralError(f"{folder.path}: it began from other weights than {run}'s; delete the folder")
        found.append(folder.path)
    return found


def _before_the_head(model: Classifier) -> dict[str, Tensor]:
    """The weights and numbers that decide the features."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
