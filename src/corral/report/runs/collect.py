"""Reads what `corral evaluate` wrote in several runs, and refuses it in one line where it does not fit together."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corral.checkpoints import read_tensors
from corral.checksums import edited
from corral.errors import CorralError, UsageError
from corral.files import AnyPath
from corral.models.fingerprint import fingerprint_of
from corral.reading import read_arrays
from corral.records import Record, read_record
from corral.report.runs.merge import merged, protocol_order, together
from corral.report.runs.outcomes import Outcomes, array_names, outcomes_problem, with_worst_case
from corral.report.words import eps_words
from corral.zoo import located


@dataclass(frozen=True)
class Arrays:
    """The arrays beside a record, as `corral evaluate` writes them; labels and predictions are integers.

    Attributes:
        features2d: (n, 2) projected test features; labels and predictions are (n,).
        centroids2d: (M, 2) centroids under the same projection, their classes (M,); M is 0 for a linear head.
        projection: () words that say what the projection is.
        images: (k, C, H, W) test images, uint8 or float in [0, 1]; labels and predictions are (k,).
        images_adversarial: (k, C, H, W) their adversarial versions, likewise.
    """

    features2d: NDArray[Any]
    features_labels: NDArray[Any]
    features_predicted: NDArray[Any]
    centroids2d: NDArray[Any]
    centroids_classes: NDArray[Any]
    projection: NDArray[Any]
    images: NDArray[Any]
    images_adversarial: NDArray[Any]
    images_labels: NDArray[Any]
    images_predicted: NDArray[Any]
    images_adversarial_predicted: NDArray[Any]


@dataclass(frozen=True)
class Evidence:
    """One run's record and arrays, with a label that is unique on the page.

    `outcomes` are (n,) whether each test image was classified right, by attack at the record's threat, "clean" among
    them; older evaluations lack some or all.
    """

    label: str
    record: Record
    arrays: Arrays
    outcomes: Outcomes = field(default_factory=dict)


def collect(runs: Sequence[AnyPath]) -> list[Evidence]:
    """Read the evaluations of several runs; a folder given twice is read once.

    Args:
        runs: run folders whose `records` hold a `.json` and a `.npz` of each evaluation.

    Returns:
        In the given order, one piece a run, image set and threat; labels of equal names have their folders.

    Raises:
        UsageError: no run was given, or a folder that is none.
        CorralError: a record or array is missing, broken or inconsistent; the message has the remedy.
    """
    return collect_with_folders(runs)[0]


def collect_with_folders(runs: Sequence[AnyPath]) -> tuple[list[Evidence], list[Path]]:
    """As `collect`, with the folder of each piece."""
    if not runs:
        raise UsageError("a report needs at least one run folder, found none: `corral report RUN... --out report.html`")
    folders: dict[Path, Path] = {}
    for run in runs:
        folders.setdefault(located(run).resolve(), located(run))
    read = [(folder, piece) for folder in folders.values() for piece in read_run(folder)]
    names = Counter(run for _, run in {(folder, record.run) for folder, (record, *_) in read})
    evidence = []
    for folder, (record, arrays, outcomes) in read:
        apart = "" if names[record.run] == 1 else f" ({folder})"
        if sum(other == folder for other, _ in read) > 1:
            apart += f" ({record.norm} eps {eps_words(record.eps)}, n = {record.n:,}, seed {record.eval_seed})"
        evidence.append(Evidence(record.run + apart, record, arrays, outcomes))
    return evidence, [folder for folder, _ in read]


def read_run(folder: Path, labels: Collection[str] | None = None) -> list[tuple[Record, Arrays, Outcomes]]:
    """A run's records; those of other protocols on the same images at the same threat are one.

    Args:
        folder: the run.
        labels: file names, without ending, of the records to read; None for all there are.

    Raises:
        UsageError: no such folder, or one that holds no run.
        CorralError: a record or array is missing, broken or inconsistent; the message has the remedy.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such run folder; give the folder that `corral train` made")
    paths = sorted((folder / "records").glob("*.json"))
    if labels is not None:
        paths = [folder / "records" / f"{label}.json" for label in labels]
    if not paths:
        if not any((folder / name).exists() for name in ("model.safetensors", "recipe.toml", "records", "linear")):
            raise UsageError(f"{folder}: holds no run; give the folder that `corral train` made")
        heads = sorted({str(path.parents[1]) for path in folder.glob("linear/*/records/*.json")})
        remedy = f"its heads have some: {', '.join(heads)}" if heads else f"make one with `corral evaluate {folder}`"
        raise CorralError(f"{folder / 'records'}: no record there; {remedy}")
    held = sorted((_read_one(folder, path) for path in paths), key=lambda one: protocol_order(one[0]))
    models = {record.model_fingerprint: record.protocol for record, *_ in held}
    fed = {" ".join([record.model_fingerprint, *record.inputs]): record.protocol for record, *_ in held}
    if len(fed) > 1:
        which = " and ".join(f"{protocol} of {model}" for model, protocol in fed.items())
        raise CorralError(
            f"{folder / 'records'}: records of different models ({which}); delete the old ones or evaluate again"
        )
    model = folder / "model.safetensors"
    if model.is_file() and (weights := fingerprint_of(read_tensors(model)[0])) not in models:
        raise CorralError(
            f"{folder / 'records'}: of another model ({next(iter(models))}) than {model} ({weights}); delete the "
            f"records and make them again with `corral evaluate {folder}`"
        )
    groups: list[list[tuple[Record, Arrays, Outcomes, NDArray[Any] | None]]] = []
    for one in held:
        for group in groups:
            if together(group[0][0], one[0]):
                group.append(one)
                break
        else:
            groups.append([one])
    found = []
    for group in groups:
        try:
            record, outcomes = merged([one[0] for one in group], [one[2] for one in group], group[0][3])
        except ValueError as error:
            raise CorralError(
                f"{folder / 'records'}: {error}; make the records again with `corral evaluate`"
            ) from error
        found.append((record, group[0][1], outcomes))
    return found


def _read_one(folder: Path, path: Path) -> tuple[Record, Arrays, Outcomes, NDArray[Any] | None]:
    remedy = f"make it again with `corral evaluate {folder}`"
    record = read_record(path)
    if problem := _record_problem(record):
        raise CorralError(f"{path}: {problem}; {remedy}")
    path = path.with_suffix(".npz")
    if not path.is_file():
        raise CorralError(f"{path}: missing; {remedy}")
    held = read_arrays(path, kind="the arrays of an evaluation", remedy=remedy)
    if record.arrays_sha256 not in (None, hashlib.sha256(path.read_bytes()).hexdigest()):
        edited(path, remedy=remedy)
        record = record.model_copy(update={"edited": (*record.edited, path.name)})
    if absent := [one.name for one in fields(Arrays) if one.name not in held]:
        raise CorralError(f"{path}: not the arrays of an evaluation, without {', '.join(absent)}; {remedy}")
    arrays = Arrays(**{one.name: held[one.name] for one in fields(Arrays)})
    stored = {key: held[name] for key, name in array_names(record, list(held)).items()}
    labels = held.get("labels")
    problem = _arrays_problem(arrays, len(record.classes)) or outcomes_problem(stored, record)
    outcomes = stored if problem else with_worst_case(stored, record)
    if problem := problem or outcomes_problem(outcomes, record):
        raise CorralError(f"{path}: {problem}; {remedy}")
    return record, arrays, outcomes, labels


def _record_problem(record: Record) -> str | None:
    """What in a record cannot be shown, or None."""
    expected = len(record.classes)
    per_class = [("clean_per_class", record.clean_per_class), *((a.name, a.per_class) for a in record.attacks)]
    for name, values in per_class:
        if len(values) != expected:
            return f"{name} has {len(values)} per-class accuracies, expected {expected}, one a class"
    twice = [key for key, count in Counter((a.name, a.norm, a.eps) for a in record.attacks).items() if count > 1]
    if twice:
        return f"attack {twice[0][0]!r} is there twice at {twice[0][1]} eps {twice[0][2]:g}, expected once"
    for curve in record.curves:
        if len(curve.eps) != len(curve.accuracy):
            return f"the curve of {curve.attack!r} has {len(curve.eps)} eps but {len(curve.accuracy)} accuracies"
    return None


def _arrays_problem(arrays: Arrays, num_classes: int) -> str | None:
    """What in the arrays cannot be shown, or None."""
    points, clusters, pictures = len(arrays.features_labels), len(arrays.centroids_classes), len(arrays.images_labels)
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("features2d", (points, 2)),
        ("features_predicted", (points,)),
        ("centroids2d", (clusters, 2)),
        ("images", (pictures, *arrays.images.shape[1:])),
        ("images_adversarial", arrays.images.shape),
        ("images_predicted", (pictures,)),
        ("images_adversarial_predicted", (pictures,)),
        ("projection", ()),
    ]
    for name, expected in shapes:
        found = getattr(arrays, name).shape
        if found != expected:
            return f"{name} has shape {found}, expected {expected}"
    if arrays.images.ndim != 4:
        return f"images has shape {arrays.images.shape}, expected (k, C, H, W)"
    for name in ("features2d", "centroids2d", "images", "images_adversarial"):
        values = getattr(arrays, name)
        if not np.issubdtype(values.dtype, np.number) or not np.isfinite(values).all():
            return f"{name} holds values that are not finite numbers"
    for one in fields(Arrays):
        if one.name.endswith(("labels", "predicted", "classes")):
            values = getattr(arrays, one.name)
            if not np.issubdtype(values.dtype, np.integer) or values.ndim != 1:
                return f"{one.name} is {values.dtype} of shape {values.shape}, expected one integer each"
            if len(values) and (values.min() < 0 or values.max() >= num_classes):
                return f"{one.name} holds classes outside [0, {num_classes})"
    return None
