"""Training in several processes that a Python call starts on this machine: each is the command line's."""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from corral.data import AnyData
from corral.distributed.launch import launched
from corral.errors import CorralError, UsageError
from corral.models.backbones import BackboneLike
from corral.training.loggers import Logger
from corral.training.recipes.recipe import Recipe
from corral.training.run import Run
from corral.training.start import Resume


def check_sendable(data: AnyData | None, backbone: BackboneLike | None, loggers: Sequence[str | Logger] | None) -> None:
    """Refuse what another process cannot be told by a name.

    Raises:
        UsageError: it names the argument.
    """
    given: dict[str, Sequence[object]] = {"data": [data], "backbone": [backbone], "loggers": loggers or []}
    for name, values in given.items():
        for value in values:
            if value is not None and not isinstance(value, str):
                raise UsageError(
                    f"{name} of type {type(value).__name__}: other processes cannot be given it; name it "
                    "('file.py:function'), or start this script by torchrun --nproc-per-node N"
                )


def train_launched(
    recipe: Recipe,
    folder: Run,
    devices: int,
    data_root: str | Path | None,
    resume: Resume,
    device: str | torch.device | None,
    progress: bool,
    loggers: Sequence[str | Logger] | None,
) -> None:
    """Train by a resolved recipe in `devices` processes; arguments as `train`.

    Raises:
        CorralError: they failed; what they say stands on standard error.
    """
    options = [["--out", str(folder.path)], ["--devices", str(devices)]]
    options += [["--data-root", str(data_root)]] if data_root is not None else []
    options += [["--device", str(device)]] if device is not None else []
    options += [["--log", str(logger)] for logger in loggers or []]
    options += [] if progress else [["--quiet"]]
    options += {"auto": [["--auto-resume"]], True: [["--resume"]], False: []}[resume]
    on_cpu = device is not None and torch.device(device).type == "cpu"
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / f"{recipe.name}.toml"
        file.write_text(recipe.to_toml(), encoding="utf-8")
        command = ["-m", "corral", "train", str(file), *(word for option in options for word in option)]
        code = launched(command, devices, gpus=device_count(on_cpu=on_cpu), stdout=subprocess.DEVNULL)
    if code:
        raise CorralError(f"{folder.path}: training in {devices} processes failed; what they said stands above")


def device_count(*, on_cpu: bool) -> int | None:
    """The GPUs that processes can be spread over; None where they work on the CPU."""
    return torch.cuda.device_count() if torch.cuda.is_available() and not on_cpu else None
