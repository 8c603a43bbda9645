"""A finished run with the test images that it is measured on, checked before anything is run."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from corral.attacks.attack import Attack
from corral.attacks.balls import Norm
from corral.data import DataSet, Images, load, stratified_subset
from corral.devices import choose_device, device_name
from corral.errors import CorralError, UsageError
from corral.evaluation.cache import EvaluationPlan, PlannedAttack
from corral.evaluation.records import environment, now
from corral.models import Classifier, ModelSpec
from corral.models.fingerprint import fingerprint
from corral.training import RunFolder, RunInfo, load_model
from corral.training.recipes.recipe import MOST_SEED
from corral.version import __version__

CPU_BATCH, DEVICE_BATCH = 125, 500


@dataclass(frozen=True)
class LoadedRun:
    """A run ready to be measured.

    Attributes:
        folder: its files.
        model: in eval mode, on the device.
        spec: of the model.
        info: of its making.
        data: the data set it was trained on.
        test: the class-balanced test images to measure on, on the device.
        device: where to run.
        batch_size: images at a time.
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

    @cached_property
    def model_fingerprint(self) -> str:
        """Which weights these are."""
        return fingerprint(self.model)

    @property
    def training_note(self) -> str:
        """What the model was trained on, in words."""
        info, data = self.info, self.data
        return f"data: {data.name} ({data.note}), trained on {info.train_images} images for {info.epochs} epochs"

    def plan(self, protocol: str, *, norm: Norm, eps: float, attacks: Sequence[Attack]) -> EvaluationPlan:
        """What decides the results of attacks on it."""
        return EvaluationPlan(
            protocol=protocol,
            model=self.model_fingerprint,
            data=self.data.fingerprint,
            norm=norm,
            eps=eps,
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


def loaded_run(
    run: str | Path,
    *,
    n: int | None,
    batch_size: int | None,
    seed: int,
    data_root: str | Path | None,
    device: str | torch.device | None,
) -> LoadedRun:
    """Open a finished run.

    Args:
        run: the run folder.
        n: a class-balanced subset of this many test images; None for the whole test set.
        batch_size: images at a time; None for 125 on a CPU, whose caches hold that many, else 500.
        seed: of the attacks, checked here.
        data_root: folder of the data-set files.
        device: where to run; None for a GPU if there is one.

    Raises:
        CorralError: no finished run, damaged files, or other data than the run was trained on.
        UsageError: an impossible n, batch size or seed.
    """
    chosen = choose_device(device)
    folder = RunFolder(Path(run))
    if not folder.path.is_dir():
        raise CorralError(f"{run}: no such run folder; `corral train RECIPE --out {run}` makes one")
    if batch_size is None:
        batch_size = CPU_BATCH if chosen.type == "cpu" else DEVICE_BATCH
    if batch_size < 1:
        raise UsageError(f"batch size must be at least 1, found {batch_size}")
    if not 0 <= seed <= MOST_SEED:
        raise UsageError(f"seed must be from 0 to {MOST_SEED}, found {seed}")
    model, spec, info = load_model(folder.path, device=chosen)
    data = load(info.data, root=data_root, code=False)
    if data.fingerprint != info.data_fingerprint:
        raise CorralError(
            f"{run}: trained on other data: {info.data} has fingerprint {data.fingerprint}, the run's was "
            f"{info.data_fingerprint}; restore the data or train again"
        )
    test = data.test if n is None or n == len(data.test) else stratified_subset(data.test, n, seed=0)
    return LoadedRun(folder, model, spec, info, data, test.to(chosen), chosen, batch_size, seed)
