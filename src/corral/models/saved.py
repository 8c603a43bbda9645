"""Classifiers in files: a description and tensors, from which the same classifier is built again."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from corral.checkpoints import checkpoint_kind, load_tensors, read_tensors, write_checkpoint
from corral.errors import CorralError, UsageError
from corral.models.backbones import (
    BACKBONES,
    BackboneLike,
    bring_backbone,
    build_backbone,
    is_own,
    missing_words,
    named_backbone,
)
from corral.models.backbones.given import PREFIX as GIVEN
from corral.models.classifier import Classifier
from corral.models.heads import HEADS
from corral.models.modes import eval_mode
from corral.models.spec import BackboneSpec, ModelSpec, build_classifier, head_spec
from corral.registry import is_target
from corral.version import __version__

# Features of a probe that are kept, and by how much they may differ, relative to the largest: devices round otherwise.
PROBED, LOOSE = 8, 1e-2
# The kinds of files that hold one: what `save_classifier` writes, and a run's model.
KINDS = ("classifier", "model")


def save_classifier(model: Classifier, path: str | Path, *, image_shape: tuple[int, int, int] | None = None) -> Path:
    """Write a classifier to one safetensors file: description, tensors and class names, with a checksum.

    Args:
        model: of a head that a registered class builds, and of a backbone that has a name, or that whoever loads it
            gives again.
        path: the file, which is written whole or not at all.
        image_shape: (channels, H, W), where the classifier takes images of any size.

    Returns:
        The path.

    Raises:
        UsageError: a classifier that could not be read again, or whose image shape is not known.
        CorralError: the file cannot be written.
    """
    write_checkpoint(Path(path), model.state_dict(), classifier_metadata(model, image_shape))
    return Path(path)


def classifier_metadata(model: Classifier, image_shape: tuple[int, int, int] | None = None) -> dict[str, Any]:
    """What a classifier's file has beside its tensors; raises as `spec_of`."""
    spec = spec_of(model, image_shape)
    return {
        "kind": KINDS[0],
        "spec": spec.model_dump(mode="json"),
        "classes": list(model.class_names or ()),
        "probe": probe(model, spec),
        "corral": __version__,
    }


def load_classifier(
    path: str | Path, *, device: torch.device | str = "cpu", backbone: BackboneLike | None = None
) -> Classifier:
    """Read what `save_classifier` wrote, or a run's model.safetensors: in eval mode. Nothing is unpickled.

    Args:
        path: the file.
        device: where the classifier goes.
        backbone: its own, where it is a user's and is not imported here; as `corral.load` takes it.

    Raises:
        CorralError: missing, truncated, damaged or foreign, or a backbone that is not known here.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    if not isinstance(metadata, dict) or metadata.get("kind") not in KINDS:
        raise CorralError(f"{path}: no classifier of corral's; give a file of Classifier.save or a run's model")
    spec = read_spec(metadata.get("spec"), path, backbone=backbone)
    info = metadata.get("info") if metadata["kind"] == "model" else metadata
    facts: Mapping[str, Any] = info if isinstance(info, dict) else {}
    model = restored(spec, tensors, path, probe=facts.get("probe"))
    model.class_names = tuple(map(str, facts.get("classes") or ())) or None
    return model.to(device).eval()


def is_saved_classifier(path: Path) -> bool:
    """Whether a file is one of `save_classifier`, by its name and its header."""
    return path.suffix == ".safetensors" and path.is_file() and checkpoint_kind(path) == KINDS[0]


def spec_of(model: Classifier, image_shape: tuple[int, int, int] | None = None) -> ModelSpec:
    """The description that a classifier is built from again.

    Raises:
        UsageError: a head that no registered class builds, a backbone that would be built otherwise, or an image shape
            that is not known.
    """
    if model.spec is not None:
        return model.spec.with_head(model.head)
    channels = model.normalisation.mean.shape[0]
    size = model.image_size
    if image_shape is None and size is None:
        raise UsageError("the classifier takes images of any size: give image_shape, (channels, H, W), to save it")
    shape = image_shape or (channels, *size)  # type: ignore[misc]
    name = named_backbone(model.backbone)
    try:
        twin = build_backbone(name, shape, {})
    except ValueError as error:
        raise UsageError(f"the backbone {type(model.backbone).__name__} cannot be built again: {error}") from error
    own = {key: tensor.shape for key, tensor in model.backbone.state_dict().items()}
    if own != {key: tensor.shape for key, tensor in twin.state_dict().items()}:
        raise UsageError(
            f"the backbone {type(model.backbone).__name__} would be built otherwise when it is read, from "
            f"{twin.features_source}: register it by corral.register.backbone, or make the classifier by corral.cluster"
        )
    return ModelSpec(
        backbone=BackboneSpec(name=name),
        image_shape=shape,
        num_classes=model.num_classes,
        mean=tuple(model.normalisation.mean.tolist()),
        std=tuple(model.normalisation.std.tolist()),
        head=head_spec(model.head),
    )


def read_spec(description: object, path: Path, *, backbone: BackboneLike | None = None) -> ModelSpec:
    """A file's description of its classifier, checked; its backbone and its head are known then.

    Raises:
        CorralError: a damaged description, or a backbone or head that nobody has registered.
    """
    _require_known(description, path, backbone)
    try:
        return ModelSpec.model_validate(description)
    except (KeyError, TypeError, UsageError, ValidationError) as error:
        raise CorralError(
            f"{path}: the model's description is damaged ({first_problem(error)}); train it again"
        ) from error


def restored(spec: ModelSpec, tensors: dict[str, Tensor], path: Path, *, probe: list[float] | None) -> Classifier:
    """The classifier of a description with its tensors, in eval mode.

    Raises:
        CorralError: they do not fit one another, or the backbone's code is another than that of the `probe`.
    """
    _check_fits(spec, tensors, path)
    try:
        model = build_classifier(spec)
    except (UsageError, ValueError) as error:
        raise CorralError(f"{path}: the model's description is damaged ({error}); train it again") from error
    load_tensors(model, tensors, path)
    _check_probe(model.eval(), spec, probe, path)
    return model


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


def _check_probe(model: Classifier, spec: ModelSpec, expected: list[float] | None, path: Path) -> None:
    """Refuse a backbone that computes something else with these weights than the one that was trained."""
    if expected is None:
        return
    found = probe(model, spec)
    if found is None or len(found) != len(expected):
        problem = f"gives {'random' if found is None else len(found)} features"
    else:
        before, now = (torch.tensor(values, dtype=torch.float64) for values in (expected, found))
        if float((now - before).abs().max()) <= LOOSE * float(before.abs().max().clamp_min(LOOSE)):
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


def first_problem(error: Exception) -> str:
    """The first thing that is wrong with a description, in a line."""
    if isinstance(error, ValidationError):
        entry = error.errors()[0]
        where, words = ".".join(map(str, entry["loc"])), entry["msg"].removeprefix("Value error, ")
        return f"{where}: {words}" if where else words
    return f"missing {error}" if isinstance(error, KeyError) else str(error)
