"""A run: the folder that training writes and everything else reads."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from corral.checkpoints import load_tensors, read_checkpoint, write_checkpoint
from corral.checksums import checksum, edited
from corral.errors import CorralError, UsageError
from corral.files import check_recordable
from corral.models import Classifier, ModelSpec, build_classifier
from corral.models.backbones import BACKBONES, BackboneLike, bring_backbone, build_backbone, is_own, missing_words
from corral.models.backbones.given import PREFIX as GIVEN
from corral.models.heads import HEADS
from corral.models.modes import eval_mode
from corral.reading import MOST_TEXT, parse_json, read_bytes
from corral.registry import is_target
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
    _require_known(metadata.get("spec"), path, backbone)
    try:
        spec = ModelSpec.model_validate(metadata["spec"])
        info = RunInfo.model_validate(metadata["info"])
    except (KeyError, TypeError, UsageError, ValidationError) as error:
        raise CorralError(f"{path}: the model's description is damaged ({_first(error)}); train it again") from error
    if not spec.head_class.decides and not encoder:
        raise CorralError(
            f"{given}: an encoder (method {info.method}) decides nothing; fit a head to it with "
            f"`corral evaluate {given} --fit-heads slf`"
        )
    _check_fits(spec, tensors, path)
    try:
        model = build_classifier(spec)
    except (UsageError, ValueError) as error:
        raise CorralError(f"{path}: the model's description is damaged ({error}); train it again") from error
    load_tensors(model, tensors, path)
    _check_probe(model.eval(), spec, info, path)
    return model.to(device).eval(), spec, info


def bring(run: str | Path, backbone: BackboneLike | None) -> None:
    """Let a finished run's backbone stand, in this process, for one that the user gives; None changes nothing."""
    if backbone is not None:
        load_model(run, encoder=True, backbone=backbone)


def _require_known(description: object, path: Path, backbone: BackboneLike | None) -> None:
    """Refuse a model whose backbone or head nobody has registered, with what may bring it; bring the one given."""
    for registry, key in ((BACKBONES, "backbone"), (HEADS, "head")):
        part = description.get(key) if isinstance(description, dict) else None
        name = part.get("name") if isinstance(part, dict) else part
        if not isinstance(name, str):
            continue
        if key == "backbone" and backbone is not None:
            bring_backbone(name, backbone)
        try:
            registry.find(name, code=False)
        except UsageError as error:
            if key == "backbone" and (is_target(name) or name.startswith(GIVEN)):
                raise CorralError(f"{path}: its backbone {name!r} is not known here: {missing_words(name)}") from error
            raise CorralError(
                f"{path}: {error}. If a plugin has it, name that by `corral --plugin FILE` or the environment variable "
                "CORRAL_PLUGINS; if not, the model's description is damaged"
            ) from error


def probe(model: Classifier, spec: ModelSpec) -> list[float] | None:
    """Up to `PROBED` features of a fixed image, in eval mode; None of corral's own backbones and of random ones."""
    if is_own(BACKBONES.find(spec.backbone.name, code=False)):
        return None
    weight = model.normalisation.mean
    ramp = torch.linspace(0, 1, math.prod(spec.image_shape), device=weight.device, dtype=weight.dtype)
    image = ramp.view(1, *spec.image_shape)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), eval_mode(model):
        first, again = (model.features(image)[0].double().cpu() for _ in range(2))
    return first[:PROBED].tolist() if torch.allclose(first, again, rtol=LOOSE, atol=LOOSE) else None


def _check_probe(model: Classifier, spec: ModelSpec, info: RunInfo, path: Path) -> None:
    """Refuse a backbone that computes something else with these weights than the one that was trained."""
    if info.probe is None:
        return
    found = probe(model, spec)
    if found is None or len(found) != len(info.probe):
        problem = f"gives {'random' if found is None else len(found)} features"
    else:
        expected = torch.tensor(info.probe, dtype=torch.float64)
        scale = float(expected.abs().max().clamp_min(LOOSE))
        if float((torch.tensor(found, dtype=torch.float64) - expected).abs().max()) <= LOOSE * scale:
            return
        problem = "gives other features for the same image"
    raise CorralError(
        f"{path}: its backbone {spec.backbone.name!r} {problem} than when the run was trained; restore its code of then"
    )


def _check_fits(spec: ModelSpec, tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse a description that is not the stored tensors' before anything of its size is allocated."""
    problem = f"{path}: the model's description does not fit its tensors"
    name, options = spec.backbone.name, spec.backbone.options()
    if not is_own(BACKBONES.find(name, code=False)):
        return  # foreign code decides what it allocates, and may not know the device without memory
    if options.get("depth", 0) > len(tensors):  # every layer of ours has tensors of its own
        raise CorralError(f"{problem}: depth {options['depth']} with {len(tensors)} tensors; train it again")
    try:
        with torch.device("meta"):
            backbone = build_backbone(name, spec.image_shape, options)
            shapes = spec.head_class.shapes(spec.head, backbone.features_dim, spec.num_classes)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # sizes also beyond what torch can count
        raise CorralError(f"{problem}: {str(error).splitlines()[0]}; train it again") from error
    expected = {f"backbone.{name}": tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    expected |= {f"head.{name}": shape for name, shape in shapes.items()}
    for name, shape in expected.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            raise CorralError(f"{problem}: {name} should be {shape}, found {found or 'none'}; train it again")


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        entry = error.errors()[0]
        where, words = ".".join(map(str, entry["loc"])), entry["msg"].removeprefix("Value error, ")
        return f"{where}: {words}" if where else words
    return f"missing {error}" if isinstance(error, KeyError) else str(error)


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
