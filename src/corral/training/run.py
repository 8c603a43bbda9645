"""A run: the folder that training writes and everything else reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from corral.checkpoints import read_checkpoint, write_checkpoint
from corral.checksums import checksum, edited
from corral.errors import CorralError, UsageError
from corral.files import check_recordable
from corral.models import Classifier, ModelSpec
from corral.models.backbones import BackboneLike
from corral.models.saved import first_problem, read_spec, restored
from corral.reading import MOST_TEXT, parse_json, read_bytes
from corral.strict import Amount, OfThreat, Radius, Seconds
from corral.training.clock import WorkClock
from corral.training.convergence import Ending

# Features of a probe that are kept, and by how much they may differ, relative to the largest: devices round otherwise.
PROBED, LOOSE = 8, 1e-2


class RunInfo(OfThreat):
    """Facts of a model's training, saved in its file.

    `started_from` is the fingerprint of the backbone's first weights where `training.start` or a backbone that is not
    corral's own gave them; None where corral drew them. `probe` are features that such a backbone gave for one image
    when the run was saved, by which other code under its name is found.
    `train_seconds` are of the wall clock, `work_seconds` of the `work_clock` ("cpu": CPU time of the process and all
    its threads; "device": wall clock between synchronisations of a GPU; None in files of earlier versions). Both are
    sums over the pieces of a resumed run, warm start included, of steps, refits and fits; validation and saving do not
    count. `ending` says whether the run converged, None where its recipe has no `training.converged`. `recipe_sha256`
    and `metrics_sha256` are the `checksum` of the contents of recipe.toml and of the list of metrics.jsonl's lines,
    None in files of earlier versions.
    """

    recipe: str
    method: str
    data: str
    data_fingerprint: str
    classes: list[str]
    norm: Literal["Linf", "L2"]
    eps: Radius
    seed: int
    epochs: Amount
    started_from: str | None = None
    train_images: Amount
    train_seconds: Seconds
    work_seconds: Seconds | None = None
    work_clock: WorkClock | None = None
    ending: Ending | None = None
    validation: dict[str, float]
    recipe_sha256: str | None = None
    metrics_sha256: str | None = None
    probe: list[float] | None = None
    corral: str
    torch: str
    device: str


@dataclass(unsafe_hash=True)
class RunFolder:
    """The paths of a run's files.

    Attributes:
        path: the folder.
        recipe: the resolved recipe.
        metrics: one JSON line an epoch.
        state: the last epoch's training state, for resuming.
        best: the model of the best validation accuracy under attack so far, where the recipe selects it.
        model: the finished model.
        records: the folder of evaluations.

    Raises:
        UsageError: a path that is no text.
    """

    path: Path

    def __post_init__(self) -> None:
        path = self.path
        check_recordable(path)
        self.recipe = path / "recipe.toml"
        self.metrics = path / "metrics.jsonl"
        self.state = path / "checkpoints" / "last.safetensors"
        self.best = path / "checkpoints" / "best.safetensors"
        self.model = path / "model.safetensors"
        self.records = path / "records"


def save_model(path: Path, weights: Mapping[str, Tensor], spec: ModelSpec, info: RunInfo) -> None:
    """Write a model's state with its spec and its `RunInfo`, atomically."""
    metadata = {"kind": "model", "spec": spec.model_dump(mode="json"), "info": info.model_dump(mode="json")}
    write_checkpoint(path, weights, metadata)


def load_model(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    encoder: bool = False,
    backbone: BackboneLike | None = None,
) -> tuple[Classifier, ModelSpec, RunInfo]:
    """Read a finished model.

    Args:
        path: a run folder or its model file.
        device: where the model goes.
        encoder: take an encoder too, whose outputs are features and no logits.
        backbone: the run's, where it is not corral's own and not imported here: a target, a module, or what makes one;
            it stands for the run's from then on. Its weights are replaced.

    Returns:
        The classifier in eval mode, its spec and its `RunInfo`.

    Raises:
        UsageError: no such run.
        CorralError: an unfinished run, an encoder, or a truncated or foreign file.
    """
    path = given = Path(path)
    if path.is_dir():
        folder = RunFolder(path)
        if not folder.model.is_file():
            if folder.state.is_file():
                raise CorralError(f"{path}: the run is unfinished; continue it with `corral train {path} --resume`")
            raise UsageError(f"{path}: no model.safetensors in this folder; make a run with `corral train`")
        path = folder.model
    elif not path.exists():
        raise UsageError(f"{path}: no such run or model file; `corral train RECIPE --out {path}` makes one")
    tensors, metadata = read_checkpoint(path, kind="model")
    spec = read_spec(metadata.get("spec"), path, backbone=backbone)
    try:
        info = RunInfo.model_validate(metadata["info"])
    except (KeyError, TypeError, ValidationError) as error:
        raise CorralError(
            f"{path}: the model's description is damaged ({first_problem(error)}); train it again"
        ) from error
    if not spec.head_class.decides and not encoder:
        raise CorralError(
            f"{given}: an encoder (method {info.method}) decides nothing; fit a head to it with "
            f"`corral evaluate {given} --fit-heads slf`"
        )
    model = restored(spec, tensors, path, probe=info.probe)
    model.class_names = tuple(info.classes)
    return model.to(device).eval(), spec, info


def bring(run: str | Path, backbone: BackboneLike | None) -> None:
    """Let a finished run's backbone stand, in this process, for one that the user gives; None changes nothing."""
    if backbone is not None:
        load_model(run, encoder=True, backbone=backbone)


def written_digest(folder: RunFolder, name: Literal["recipe_sha256", "metrics_sha256"]) -> str | None:
    """The `checksum` of a file's content that a finished run's model states; None where there is none.

    Raises:
        CorralError: a damaged model file.
    """
    if not folder.model.is_file():
        return None
    info = read_checkpoint(folder.model, kind="model")[1].get("info")
    return info.get(name) if isinstance(info, dict) else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The epochs' numbers, one dictionary each with an "epoch" among them.

    Raises:
        CorralError: the file is missing, a line is not such a dictionary, or the run is finished and the file was
            edited since.
    """
    entries = read_epochs(path)
    if written_digest(RunFolder(path.parent), "metrics_sha256") not in (None, checksum(entries)):
        edited(path, remedy="restore it or train again")
    return entries


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """`read_metrics` of a run that may be unfinished, whose checkpoint says what its metrics were."""
    remedy = "restore it or train again"
    content = read_bytes(path, remedy=remedy, most=MOST_TEXT)
    try:
        entries = [parse_json(line) for line in content.splitlines() if line]
    except ValueError as error:
        raise CorralError(f"{path}: not JSON lines ({error}); {remedy}") from error
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("epoch"), int):
            raise CorralError(f"{path}: line {number} is not an epoch's numbers; {remedy}")
    return entries
