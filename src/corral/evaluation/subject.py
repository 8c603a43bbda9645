"""A model with the images that it is measured on: checked, gone through in batches, attacked, and written about."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from corral.attacks.attack import Attack
from corral.attacks.engine import Attacked, cpu_batch, run_attacks
from corral.attacks.threat import Threat
from corral.data import AnyData, Images, Measured, load_measured, stratified_subset
from corral.devices import choose_device, device_name
from corral.distributed import ranks
from corral.documents import write_arrays, write_document
from corral.errors import CorralError, UsageError
from corral.evaluation.cache import EvaluationCache, EvaluationPlan, PlannedAttack
from corral.files import AnyPath, user_path
from corral.lock import held
from corral.models import Classifier
from corral.models.backbones import BackboneLike
from corral.models.fingerprint import fingerprint
from corral.models.saved import is_saved_classifier
from corral.progress import Progress
from corral.records import OfRun, environment, now
from corral.targets import Preparation, Target, load_target
from corral.targets.outputs import are_probabilities, check_outputs, measuring, outputs
from corral.targets.prepare import prepared
from corral.training import Run, RunInfo, load_model, load_recipe
from corral.training.recipes.recipe import MOST_SEED, Recipe
from corral.training.start import data_of
from corral.version import __version__
from corral.zoo import is_shipped, located

AnyRecord = TypeVar("AnyRecord", bound=OfRun)
# What is measured: a run folder, what `corral.targets.load_target` takes, or a module.
AnyModel = AnyPath | nn.Module
DEVICE_BATCH = 500
PLAIN = Preparation()
# Images that a foreign model's outputs are checked on.
CHECKED = 64


class Rolled(nn.Module):
    """A model whose class `offset` is the data's class 0; the classes before it come last."""

    def __init__(self, model: nn.Module, offset: int) -> None:
        super().__init__()
        self.model, self.offset = model, offset
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) logits in the data's order."""
        logits: Tensor = self.model(x)
        return logits.roll(-self.offset, 1)


@dataclass(frozen=True)
class Subject:
    """A model and its test images, and how to go through them.

    Attributes:
        target: the model as it was named, with what is known of it.
        model: what is measured and attacked: a `Classifier` where it is one, else the model behind its contract and
            its preparation.
        classes: names of its outputs: those of the data, then "output K" for more.
        data: where the images come from.
        test: the class-balanced test images to measure on, labelled, on the device.
        place: the folder that documents go to; None where nothing is written.
        seed: of the attacks.
        preparation: what images go through before the model.
        notes: what a reader should know of the model's loading and outputs.
    """

    target: Target
    model: nn.Module
    classes: tuple[str, ...]
    data: Measured
    test: Images
    place: Path | None
    device: torch.device
    batch_size: int
    seed: int
    progress: bool
    preparation: Preparation = PLAIN
    notes: tuple[str, ...] = ()

    @property
    def info(self) -> RunInfo | None:
        """How it was trained, where it is a run."""
        return self.target.info

    @cached_property
    def recipe(self) -> Recipe | None:
        """By which it was trained, where it is a run."""
        return None if self.info is None else load_recipe(_folder(Path(self.target.name)))

    @property
    def name(self) -> str:
        """What documents call it."""
        if self.info is not None:
            named = is_shipped(self.target.name)
            return self.target.name if named else _folder(Path(self.target.name)).name
        return self.target.name if self.place is None or self.target.kind != "module" else self.place.name

    @property
    def classifier(self) -> Classifier | None:
        """The model, where its features and its head are known."""
        return self.model if isinstance(self.model, Classifier) else None

    @cached_property
    def model_fingerprint(self) -> str:
        """Which weights these are; of a program in a file, which file; of a model without weights, by its name."""
        if self.target.kind in ("torchscript", "export"):
            return hashlib.sha256(Path(self.target.name).read_bytes()).hexdigest()[:16]
        if not self.target.model.state_dict():
            return hashlib.sha256(self.target.name.encode()).hexdigest()[:16]
        return fingerprint(self.target.model)

    @property
    def labels(self) -> Tensor:
        """(n,) int64 labels of the test images."""
        assert self.test.labels is not None
        return self.test.labels

    @property
    def data_note(self) -> str:
        """What it was trained and measured on, in words."""
        info, words = self.info, f"data: {self.data.name} ({self.data.note})"
        return words if info is None else f"{words}, trained on {info.train_images} images for {info.epochs} epochs"

    def own_threat(self) -> Threat | None:
        """The threat that the run was trained for."""
        return None if self.info is None or self.info.eps == 0 else Threat(self.info.norm, self.info.eps)

    def per_class(self, correct: Tensor) -> list[float | None]:
        """Share of True within each class; None where a class has no example."""
        classes = len(self.classes)
        counts, hits = (torch.bincount(labels, minlength=classes) for labels in (self.labels, self.labels[correct]))
        return [hit / count if count else None for hit, count in zip(hits.tolist(), counts.tolist(), strict=True)]

    def predictions(self, images: Tensor | None = None) -> Tensor:
        """(n,) predicted labels of the test images, or of given ones."""
        return self._batched(self.model, images).argmax(1)

    def features(self) -> Tensor:
        """(n, d) features of the test images; where they are not known, the logits."""
        return self._batched(self.model if self.classifier is None else self.classifier.features, None)

    def _batched(self, function: Callable[[Tensor], Tensor], images: Tensor | None) -> Tensor:
        total = len(self.test) if images is None else len(images)
        parts = {}
        with torch.no_grad():
            batches = torch.split(torch.arange(total, device=self.device), self.batch_size)
            for number, indices in ranks.dealt(batches):
                parts[number] = function(self.test.float(indices) if images is None else images[indices]).cpu()
        output = torch.cat(ranks.merged(parts)).to(self.device)
        if not bool(torch.isfinite(output).all()):
            raise CorralError("the model's outputs are not finite on the test images; train it again")
        return output

    def attack(
        self, attack: Attack, cache: EvaluationCache | None, *, keep: Tensor | None = None, count: int | None = None
    ) -> Attacked:
        """Run one attack on the first `count` images, but for the batches that `cache` holds.

        `keep` are the (m,) indices of the images whose adversarial versions are kept; both default to all.
        """
        return run_attacks(
            self.model,
            self.test.float,
            self.labels[:count],
            [attack],
            seed=self.seed,
            batch_size=self.batch_size,
            keep=keep,
            cache=cache,
            progress=self.progress,
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the user's own model as attacks hold it, and give it back as it was; a run's is read for this alone."""
        if self.target.kind == "run":
            yield
        else:
            with measuring(self.model, self.device):
                yield

    def cache(self, label: str, plan: EvaluationPlan, *, overwrite: bool) -> EvaluationCache | None:
        """What an interrupted call has finished of a document, such as "records/quick"; None without a place."""
        if self.place is None:
            return None
        folder = self.place / f"{label}.unfinished"
        ranks.on_first(lambda: EvaluationCache(folder, plan, overwrite=overwrite) and None)
        return ranks.agreed(lambda: EvaluationCache(folder, plan))

    def plan(self, protocol: str, threat: Threat, attacks: Sequence[Attack]) -> EvaluationPlan:
        """What decides the results of attacks on it."""
        return EvaluationPlan(
            protocol=protocol,
            model=self.model_fingerprint,
            data=self.data.fingerprint,
            norm=threat.norm,
            eps=threat.eps,
            n=len(self.test),
            seed=self.seed,
            batch_size=self.batch_size,
            attacks=[PlannedAttack(name=attack.name, settings=dict(attack.settings)) for attack in attacks],
            inputs=self.preparation.options(),
            device=device_name(self.device),
            corral=__version__,
            torch=torch.__version__,
        )

    def facts(self) -> dict[str, Any]:
        """The fields of `OfRun`, but for its form and notes."""
        info = self.info
        head = None if self.classifier is None else self.classifier.head
        return {
            "run": self.name,
            "kind": self.target.kind,
            "recipe": None if info is None else info.recipe,
            "method": None if info is None else info.method,
            "head": None if head is None else head.name,
            "rule": None if head is None or head.rule is None else str(head.rule),
            "data": self.data.name if info is None else info.data,
            "data_fingerprint": self.data.fingerprint,
            "model_fingerprint": self.model_fingerprint,
            "n": len(self.test),
            "n_test": len(self.data.test),
            "train_seed": None if info is None else info.seed,
            "train_seconds": None if info is None else info.train_seconds,
            "work_seconds": None if info is None else info.work_seconds,
            "work_clock": None if info is None else info.work_clock,
            "inputs": self.preparation.options(),
            "parameters": sum(one.numel() for one in self.target.model.parameters()),
            "created": now(),
            "environment": environment(self.device),
        }

    def write(self, record: AnyRecord, arrays: Mapping[str, Tensor | NDArray[Any]], label: str, done: str) -> AnyRecord:
        """Write a record to `label`.json in its place, its arrays beside it, and say what was done.

        Of several processes the first one's is written.

        Returns:
            What was written; the record itself where there is no place.
        """
        return ranks.on_first(lambda: self._written(record, arrays, label, done))

    def _written(
        self, record: AnyRecord, arrays: Mapping[str, Tensor | NDArray[Any]], label: str, done: str
    ) -> AnyRecord:
        say = Progress("", 0, "", enabled=self.progress).say
        if self.place is None:
            say(f"{self.name}: {done}")
            return record
        path = self.place / f"{label}.json"
        found = {
            name: values.cpu().numpy() if isinstance(values, Tensor) else values for name, values in arrays.items()
        }
        digest = write_arrays(found, path.with_suffix(".npz"))
        written = write_document(record.model_copy(update={"arrays_sha256": digest}), path)
        say(f"{self.place}: {done}: {path}")
        return written


def alone(place: Path | None, folder: str, name: str) -> AbstractContextManager[object]:
    """Hold a folder of a place as `corral.lock.held` does, so that nobody else writes there; nothing without one.

    Of several processes that work together the first one holds it.
    """
    return nullcontext() if place is None else ranks.held_by_first(lambda: held(place / folder, name))


def is_run(target: AnyModel) -> bool:
    """Whether a target is a run folder or its model file, or a path that names nothing else."""
    if isinstance(target, nn.Module):
        return False
    path = user_path(str(target))
    if isinstance(target, PathLike) or target.endswith(".safetensors"):
        return not is_saved_classifier(path)
    return path.is_dir() or not (path.exists() or ":" in target)


def place_of(target: AnyModel, out: str | Path | None) -> Path | None:
    """The folder that documents about a target go to: a run's own, or `out`; a model of the package has none.

    Raises:
        UsageError: no such run, or a name that no record can hold.
        CorralError: a run that is not finished.
    """
    if isinstance(target, nn.Module) or not is_run(target) or is_shipped(target):
        return None if out is None else Run(Path(out)).path
    folder = run_folder(target).path
    return folder if out is None else Run(Path(out)).path


def run_folder(run: AnyPath) -> Run:
    """A finished run, named by its folder or its model file.

    Raises:
        UsageError: no such folder, one that holds no run, or a name that no record can hold.
        CorralError: a run that is not finished.
    """
    given = located(run)
    folder = Run(given.parent if given.is_file() else given)  # its model file stands for it
    if not folder.path.is_dir():
        raise UsageError(f"{run}: no such run folder; `corral train RECIPE --out {run}` makes one")
    if not folder.model_file.is_file():
        load_model(folder.path)  # says what is missing
    return folder


def load_subject(
    target: AnyModel,
    data: AnyData | None,
    *,
    place: Path | None,
    n: int | None,
    batch_size: int | None,
    seed: int,
    preparation: Preparation = PLAIN,
    path: str | Path | None = None,
    backbone: BackboneLike | None = None,
    data_root: str | Path | None,
    device: str | torch.device | None,
    progress: bool,
) -> Subject:
    """Open a finished run, or load a model; arguments as `evaluate`.

    Raises:
        CorralError: no finished run, damaged files, other data than the run was trained on, or a model that does not
            take the images or gives no logits of them.
        UsageError: an impossible n, batch size or seed; a model without data.
    """
    chosen = _device(target, device)
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch size must be at least 1, found {batch_size}")
    if not 0 <= seed <= MOST_SEED:
        raise UsageError(f"seed must be from 0 to {MOST_SEED}, found {seed}")
    named = target if isinstance(target, nn.Module) else str(target)
    loaded = ranks.agreed(lambda: load_target(named, path=path, backbone=backbone, device=chosen))
    found = ranks.agreed(lambda: _images(loaded, data, data_root))
    ranks.require_equal("the data's fingerprint", found.fingerprint)
    progress = progress and ranks.is_first()
    test = found.test if n is None or n == len(found.test) else stratified_subset(found.test, n, seed=0)
    test = test.to(chosen)
    if batch_size is None:
        batch_size = cpu_batch(math.prod(test.shape)) if chosen.type == "cpu" else DEVICE_BATCH
    model, notes = loaded.model, loaded.notes
    classes = found.classes
    if loaded.kind != "run":
        model, outputs_, notes = _ready(loaded, preparation, test)
        classes = (*classes, *(f"output {number}" for number in range(len(classes), outputs_)))
    elif preparation != PLAIN:
        raise UsageError(f"{target}: a run takes pixels in [0, 1] as they are: leave {preparation.options()[0]} out")
    return Subject(loaded, model, classes, found, test, place, chosen, batch_size, seed, progress, preparation, notes)


def _device(target: AnyModel, device: str | torch.device | None) -> torch.device:
    """Where to measure: by default a module stays where it is."""
    if device is None and isinstance(target, nn.Module):
        return next((tensor.device for tensor in (*target.parameters(), *target.buffers())), choose_device(None))
    return choose_device(device)


def _images(target: Target, data: AnyData | None, root: str | Path | None) -> Measured:
    """A run's own test images, or those given for another model."""
    if target.info is not None:
        own = data_of(target.name, target.info, data=data, root=root)
        return Measured(own.name, own.classes, own.test, own.note, own.fingerprint)
    if data is None:
        raise UsageError(f"{target.name}: give data, such as (x, y), a named set or folder:PATH (--data)")
    return load_measured(data, root=root)


def _ready(target: Target, preparation: Preparation, test: Images) -> tuple[nn.Module, int, tuple[str, ...]]:
    """A foreign model behind its contract and its preparation, checked; the number of its outputs, and notes."""
    labels, offset = test.labels, preparation.offset
    assert labels is not None
    notes = target.notes
    own = isinstance(target.model, Classifier) and preparation == PLAIN
    model = target.model if own else prepared(target.model, preparation, labels.device)
    x = test.float(torch.arange(min(CHECKED, len(labels)), device=labels.device))
    with measuring(model, labels.device):
        check_outputs(target.name, model, x[:8], labels + offset)
        found = outputs(model, x)
    if are_probabilities(found):
        model = prepared(target.model, preparation, labels.device, log=True)
        notes = (*notes, "the model ends in a softmax: the logarithm of its outputs was attacked as logits")
    return (Rolled(model, offset) if offset else model), found.shape[1], notes


def _folder(path: Path) -> Path:
    """The folder of a run that is named by it or by its model file."""
    path = located(path)
    return path if path.is_dir() else path.parent


def share(values: Tensor) -> float:
    """The share of True in (n,) bools."""
    return int(values.sum()) / len(values)
