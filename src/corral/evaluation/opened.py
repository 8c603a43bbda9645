"""A finished run with the test images that it is measured on, checked before anything is run."""

from dataclasses import dataclass
from pathlib import Path

import torch

from corral.data import DataSet, Images, load, stratified_subset
from corral.devices import choose_device
from corral.errors import CorralError, UsageError
from corral.models import Classifier, ModelSpec
from corral.training import RunFolder, RunInfo, load_model
from corral.training.recipe import MOST_SEED

CPU_BATCH, DEVICE_BATCH = 125, 500


@dataclass(frozen=True)
class Opened:
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
    """

    folder: RunFolder
    model: Classifier
    spec: ModelSpec
    info: RunInfo
    data: DataSet
    test: Images
    device: torch.device
    batch_size: int


def opened(
    run: str | Path,
    *,
    n: int | None,
    batch_size: int | None,
    seed: int,
    data_root: str | Path | None,
    device: str | torch.device | None,
) -> Opened:
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
    data = load(info.data, root=None if data_root is None else Path(data_root))
    if data.fingerprint != info.data_fingerprint:
        raise CorralError(
            f"{run}: trained on other data: {info.data} has fingerprint {data.fingerprint}, the run's was "
            f"{info.data_fingerprint}; restore the data or train again"
        )
    test = data.test if n is None or n == len(data.test) else stratified_subset(data.test, n, seed=0)
    return Opened(folder, model, spec, info, data, test.to(chosen), chosen, batch_size)
