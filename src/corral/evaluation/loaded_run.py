"""A finished run with its test images: checked, gone through in batches, attacked, and written about."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from corral.attacks.attack import Attack
from corral.attacks.engine import Attacked, run_attacks
from corral.attacks.threat import Threat
from corral.data import AnyData, DataSet, Images, stratified_subset
from corral.devices import choose_device, device_name
from corral.documents import write_arrays, write_document
from corral.errors import CorralError, UsageError
from corral.evaluation.cache import EvaluationCache, EvaluationPlan, PlannedAttack
from corral.evaluation.records import OfRun, environment, now
from corral.models import Classifier, ModelSpec
from corral.models.fingerprint import fingerprint
from corral.progress import Progress
from corral.training import RunFolder, RunInfo, load_model
from corral.training.recipes.recipe import MOST_SEED
from corral.training.start import data_of
from corral.version import __version__

AnyRecord = TypeVar("AnyRecord", bound=OfRun)
CPU_BATCH, DEVICE_BATCH = 125, 500


@dataclass(frozen=True)
class LoadedRun:
    """A run and its test images, and how to go through them.

    Attributes:
        model: in eval mode, on the device.
        data: the data set it was trained on.
        test: the class-balanced test images to measure on, labelled, on the device.
        seed: of the attacks.
    """

    folder: RunFolder
    model: Classifier
    spec: ModelSpec
    info: RunInfo
    data: DataSet
    test: Images
    device: torch.device
    batch_size: int
    seed: int
    progress: bool

    @cached_property
    def model_fingerprint(self) -> str:
        """Which weights these are."""
        return fingerprint(self.model)

    @property
    def labels(self) -> Tensor:
        """(n,) int64 labels of the test images."""
        assert self.test.labels is not None
        return self.test.labels

    @property
    def training_note(self) -> str:
        """What the model was trained on, in words."""
        info, data = self.info, self.data
        return f"data: {data.name} ({data.note}), trained on {info.train_images} images for {info.epochs} epochs"

    def per_class(self, correct: Tensor) -> list[float | None]:
        """Share of True within each class; None where a class has no example."""
        classes = len(self.data.classes)
        counts, hits = (torch.bincount(labels, minlength=classes) for labels in (self.labels, self.labels[correct]))
        return [hit / count if count else None for hit, count in zip(hits.tolist(), counts.tolist(), strict=True)]

    def predictions(self, images: Tensor | None = None) -> Tensor:
        """(n,) predicted labels of the test images, or of given ones."""
        return self._batched(self.model, images).argmax(1)

    def features(self) -> Tensor:
        """(n, d) features of the test images."""
        return self._batched(self.model.features, None)

    def _batched(self, function: Callable[[Tensor], Tensor], images: Tensor | None) -> Tensor:
        total = len(self.test) if images is None else len(images)
        parts = []
        with torch.no_grad():
            for indices in torch.split(torch.arange(total, device=self.device), self.batch_size):
                parts.append(function(self.test.float(indices) if images is None else images[indices]))
        output = torch.cat(parts)
        if not bool(torch.isfinite(output).all()):
            raise CorralError("the model's outputs are not finite on the test images; train it again")
        return output

    def attack(
        self, attack: Attack, cache: EvaluationCache, *, keep: Tensor | None = None, count: int | None = None
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
            device=device_name(self.device),
            corral=__version__,
            torch=torch.__version__,
        )

    def facts(self) -> dict[str, Any]:
        """The fields of `OfRun`, but for its form and notes."""
        head, info = self.model.head, self.info
        return {
            "run": self.folder.path.name,
            "recipe": info.recipe,
            "method": info.method,
            "head": head.name,
            "rule": None if head.rule is None else str(head.rule),
            "data": info.data,
            "data_fingerprint": self.data.fingerprint,
            "model_fingerprint": self.model_fingerprint,
            "n": len(self.test),
            "n_test": len(self.data.test),
            "train_seed": info.seed,
            "train_seconds": info.train_seconds,
            "work_seconds": info.work_seconds,
            "work_clock": info.work_clock,
            "created": now(),
            "environment": environment(self.device),
        }

    def write(self, record: AnyRecord, arrays: Mapping[str, Tensor | NDArray[Any]], path: Path, done: str) -> AnyRecord:
        """Write a record to `path` (.json), its arrays beside it, and say what was done; returns what was written."""
        found = {
            name: values.cpu().numpy() if isinstance(values, Tensor) else values for name, values in arrays.items()
        }
        digest = write_arrays(found, path.with_suffix(".npz"))
        written = write_document(record.model_copy(update={"arrays_sha256": digest}), path)
        Progress("", 0, "", enabled=self.progress).say(f"{self.folder.path}: {done}: {path}")
        return written


def run_folder(run: str | Path) -> RunFolder:
    """The folder of a finished run.

    Raises:
        CorralError: no such folder, or no finished model in it.
        UsageError: a name that no record can hold.
    """
    folder = RunFolder(Path(run))
    if not folder.path.is_dir():
        raise CorralError(f"{run}: no such run folder; `corral train RECIPE --out {run}` makes one")
    if not folder.model.is_file():
        load_model(folder.path)  # says what is missing
    return folder


def loaded_run(
    run: str | Path,
    *,
    n: int | None,
    batch_size: int | None,
    seed: int,
    data: AnyData | None,
    data_root: str | Path | None,
    device: str | torch.device | None,
    progress: bool,
) -> LoadedRun:
    """Open a finished run; arguments as `evaluate`.

    Raises:
        CorralError: no finished run, damaged files, or other data than the run was trained on.
        UsageError: an impossible n, batch size or seed.
    """
    chosen, folder = choose_device(device), run_folder(run)
    if batch_size is None:
        batch_size = CPU_BATCH if chosen.type == "cpu" else DEVICE_BATCH
    if batch_size < 1:
        raise UsageError(f"batch size must be at least 1, found {batch_size}")
    if not 0 <= seed <= MOST_SEED:
        raise UsageError(f"seed must be from 0 to {MOST_SEED}, found {seed}")
    model, spec, info = load_model(folder.path, device=chosen)
    images = data_of(run, info, data=data, root=data_root)
    test = images.test if n is None or n == len(images.test) else stratified_subset(images.test, n, seed=0)
    return LoadedRun(folder, model, spec, info, images, test.to(chosen), chosen, batch_size, seed, progress)


def share(values: Tensor) -> float:
    """The share of True in (n,) bools."""
    return int(values.sum()) / len(values)
