"""A run: the folder that training writes and everything else reads."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from corral.checkpoints import checkpoint_header, read_checkpoint, write_checkpoint
from corral.checksums import checksum, edited
from corral.errors import CorralError, UsageError
from corral.files import AnyPath, check_recordable
from corral.models import Classifier, ModelSpec
from corral.models.backbones import BackboneLike
from corral.models.saved import first_problem, read_spec, restored
from corral.notebook import Shown
from corral.reading import MOST_TEXT, parse_json, read_bytes
from corral.records import Record, read_record
from corral.strict import Amount, OfThreat, Radius, Seconds, WorkClock
from corral.terminal import eps_words
from corral.training.convergence import Ending
from corral.zoo import located

if TYPE_CHECKING:
    from corral.training.recipes.recipe import Recipe


class RunInfo(OfThreat):
    """Facts of a model's training, saved in its file.

    `started_from` is the fingerprint of the backbone's first weights where `training.start` or a backbone that is not
    corral's own gave them; None where corral drew them. `probe` are features that such a backbone gave for one image
    when the run was saved, by which other code under its name is found.
    `train_seconds` are of the wall clock, `work_seconds` of the `work_clock` ("cpu": CPU time of the process and all
    its threads; "device": wall clock between synchronisations of a GPU; None in files of earlier versions). Both are
    sums over the pieces of a resumed run, warm start included, of steps, refits and fits; validation and saving do not
    count. `ending` says whether the run converged or was stopped early, None where nothing but its number of epochs
    could end it. `epochs` are those that the saved weights have had, the warm start's among them. `recipe_sha256` and
    `metrics_sha256` are the `checksum` of the contents of recipe.toml and of the list of metrics.jsonl's lines, None in
    files of earlier versions.
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


class Run(Shown, os.PathLike[str]):
    """A run: the folder that training writes. It stands for its path wherever one is taken.

    `run / "records"`, `str(run)`, `open(run / "recipe.toml")` and all that a `Path` has work; it equals a `Path` to the
    same folder. What is in the folder is read when it is asked for.

    Attributes:
        path: the folder.
        recipe_file: the resolved recipe.
        metrics_file: one JSON line an epoch.
        state_file: the last epoch's training state, for resuming.
        best_file: the model of the best validation accuracy under attack so far, where the recipe selects it.
        sound_file: the model of the last epoch before which nothing failed, while a run trains that would stop then.
        model_file: the finished model.
        records_folder: the folder of evaluations.

    Raises:
        UsageError: a path that is no text.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path = Path(path)
        check_recordable(path)
        self.recipe_file = path / "recipe.toml"
        self.metrics_file = path / "metrics.jsonl"
        self.state_file = path / "checkpoints" / "last.safetensors"
        self.best_file = path / "checkpoints" / "best.safetensors"
        self.sound_file = path / "checkpoints" / "sound.safetensors"
        self.model_file = path / "model.safetensors"
        self.records_folder = path / "records"

    @cached_property
    def model(self) -> Classifier:
        """The finished classifier, in eval mode on the CPU, read once; raises as `load_model`."""
        return load_model(self.path)[0]

    @property
    def info(self) -> RunInfo:
        """The facts of its training; raises as `load_model`."""
        return _info(read_checkpoint(_finished(self), kind="model")[1], self.model_file)

    @property
    def recipe(self) -> "Recipe":
        """What it was trained by; raises as `corral.training.load_recipe`."""
        from corral.training.recipes.files import load_recipe  # which reads what runs state of their recipes

        return load_recipe(self.path)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Each epoch's numbers; raises as `read_metrics`."""
        return read_metrics(self.metrics_file)

    @property
    def records(self) -> tuple[Record, ...]:
        """Its evaluations, the earliest first; raises as `corral.evaluation.read_record`."""
        # `created` is to the second; the files' times order what was made within one.
        paths = sorted(self.records_folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return tuple(sorted(map(read_record, paths), key=lambda record: record.created))

    def __fspath__(self) -> str:
        return str(self.path)

    __str__ = __fspath__

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        return self.path / name

    def __getattr__(self, name: str) -> Any:
        """What else a `Path` has, such as `name`, `parent` and `exists()`."""
        if name.startswith("_") or name == "path":
            raise AttributeError(name)
        return getattr(self.path, name)

    def __eq__(self, other: object) -> bool:
        return self.path == (other.path if isinstance(other, Run) else other)

    def __hash__(self) -> int:
        return hash(self.path)

    def _shown(self) -> tuple[str, dict[str, object]]:
        """By the header of its model; damaged files are told, and raise nothing."""
        count = len(list(self.records_folder.glob("*.json")))
        records = {"records": f"{count} record{'' if count == 1 else 's'}"}
        if not self.model_file.is_file():
            state = "unfinished" if self.recipe_file.is_file() else "no run"
            return repr(str(self.path)), {"state": state, **(records if count else {})}
        try:
            info = _info(checkpoint_header(self.model_file), self.model_file)
        except CorralError:
            return repr(str(self.path)), {"state": "damaged"}
        return repr(str(self.path)), {
            "recipe": f"{info.recipe} on {info.data}",
            "threat": f"{info.norm} {eps_words(info.eps)}",
            "training": f"{info.epochs} epoch{'' if info.epochs == 1 else 's'}, seed {info.seed}",
            **records,
        }


def save_model(path: Path, weights: Mapping[str, Tensor], spec: ModelSpec, info: RunInfo) -> None:
    """Write a model's state with its spec and its `RunInfo`, atomically."""
    metadata = {"kind": "model", "spec": spec.model_dump(mode="json"), "info": info.model_dump(mode="json")}
    write_checkpoint(path, weights, metadata)


def load_model(
    path: AnyPath,
    *,
    device: torch.device | str = "cpu",
    encoder: bool = False,
    backbone: BackboneLike | None = None,
) -> tuple[Classifier, ModelSpec, RunInfo]:
    """Read a finished model.

    Args:
        path: a run folder, its model file, or the name of a model that comes with corral.
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
    given, path = Path(path), located(path)
    if not path.is_file():
        path = _finished(Run(path))
    tensors, metadata = read_checkpoint(path, kind="model")
    spec = read_spec(metadata.get("spec"), path, backbone=backbone)
    info = _info(metadata, path)
    if not spec.head_class.decides and not encoder:
        raise CorralError(
            f"{given}: an encoder (method {info.method}) decides nothing; fit a head to it with "
            f"`corral evaluate {given} --fit-heads slf`"
        )
    model = restored(spec, tensors, path, probe=info.probe)
    model.class_names = tuple(info.classes)
    return model.to(device).eval(), spec, info


def _finished(run: Run) -> Path:
    """The model file of a run that has one.

    Raises:
        UsageError: no such folder, or no run in it.
        CorralError: an unfinished run.
    """
    path = run.path
    if not path.exists():
        raise UsageError(f"{path}: no such run or model file; `corral train RECIPE --out {path}` makes one")
    if not run.model_file.is_file():
        if run.state_file.is_file():
            raise CorralError(f"{path}: the run is unfinished; continue it with `corral train {path} --resume`")
        raise UsageError(f"{path}: no model.safetensors in this folder; make a run with `corral train`")
    return run.model_file


def _info(metadata: Any, path: Path) -> RunInfo:
    """The facts in a model file's metadata.

    Raises:
        CorralError: they are damaged.
    """
    try:
        return RunInfo.model_validate(metadata["info"])
    except (KeyError, TypeError, ValidationError) as error:
        raise CorralError(
            f"{path}: the model's description is damaged ({first_problem(error)}); train it again"
        ) from error


def bring(run: AnyPath, backbone: BackboneLike | None) -> None:
    """Let a finished run's backbone stand, in this process, for one that the user gives; None changes nothing."""
    if backbone is not None:
        load_model(run, encoder=True, backbone=backbone)


def written_digest(folder: Run, name: Literal["recipe_sha256", "metrics_sha256"]) -> str | None:
    """The `checksum` of a file's content that a finished run's model states; None where there is none.

    Raises:
        CorralError: a damaged model file.
    """
    if not folder.model_file.is_file():
        return None
    info = read_checkpoint(folder.model_file, kind="model")[1].get("info")
    return info.get(name) if isinstance(info, dict) else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The epochs' numbers, one dictionary each with an "epoch" among them.

    Args:
        path: a run's metrics.jsonl.

    Raises:
        CorralError: the file is missing, a line is not such a dictionary, or the run is finished and the file was
            edited since.
    """
    entries = read_epochs(path)
    if written_digest(Run(path.parent), "metrics_sha256") not in (None, checksum(entries)):
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
