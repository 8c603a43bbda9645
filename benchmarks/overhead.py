"""What an epoch of training costs beside its bare passes, and the share of it that a refit takes.

usage: OMP_NUM_THREADS=1 CORRAL_DATA=DIR python benchmarks/overhead.py [--cases mnist:at cifar10:corral] [--epochs 5]

The bare passes are the same network's forward and backward passes that the method needs and nothing else: per batch
one pass with weight gradients, for corral two, clean and adversarial, and `steps` passes with image gradients. Ratios
are of CPU seconds (on a GPU of seconds); an epoch and its bare passes take turns.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

import history
from corral.attacks.state import attacked
from corral.errors import CorralError
from corral.training import Run, Training, load_recipe, read_metrics
from corral.training.loggers import find_loggers

CASES = ("digits:at", "digits:corral", "mnist:at", "mnist:corral", "cifar10:at", "cifar10:corral")
# Aims for an epoch over its bare passes.
AIMS = {"mnist": 1.10, "cifar10": 1.05}
# A part of each set, which a benchmark has the time for, and the network of CIFAR-10.
SETTINGS = {
    "digits": {},
    "mnist": {"data.train": 4000},
    "cifar10": {
        "data.train": 1280,
        "model.backbone": "resnet",
        "model.width": 16,
        "model.depth": 10,
        "training.batch_size": 128,
        "method.inner.steps": 3,
    },
}
COMMON = {"training.warm_start.epochs": 0, "data.validation": 0, "training.select": "last"}


def clock(device: torch.device) -> float:
    """CPU seconds of this process; on a GPU seconds, once it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def bare_seconds(run: Training, steps: int, clean: bool) -> float:
    """Of one epoch's passes without any of the method's own work."""
    model, images, size = run.model, run.images, run.recipe.training.batch_size
    labels = images.labels
    assert labels is not None
    model.train()
    started = clock(run.device)
    for rows in torch.split(torch.randperm(len(images), device=run.device), size):
        x = images.float(rows)
        for _ in range(1 + clean):
            model.zero_grad()
            torch.nn.functional.cross_entropy(model(x), labels[rows]).backward()
        with attacked(model):
            for _ in range(steps):
                x = x.detach().requires_grad_(True)
                torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), labels[rows]), x)
    return clock(run.device) - started


def ratios(data: str, method: str, epochs: int) -> tuple[list[float], str]:
    """Each epoch's seconds over those of the bare passes after it, and a line of what else it took."""
    recipe = load_recipe(method, data=data, overrides={**COMMON, **SETTINGS[data], "training.epochs": epochs + 1})
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Run(Path(scratch) / "run")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

        def after_epoch(number: int, numbers: dict[str, float]) -> None:
            bare.append(bare_seconds(run, recipe.method.inner.steps, method == "corral"))

        run = Training(recipe, folder, device, progress=False, loggers=find_loggers([after_epoch]))
        run.begin(resume=False)
        run.execute()
        entries = read_metrics(folder.metrics_file)
    work = [entry["work_seconds"] for entry in entries]
    found = [(now - before) / passes for before, now, passes in zip(work[:-1], work[1:], bare[1:], strict=True)]
    epoch = statistics.median(entry["epoch_seconds"] for entry in entries[1:])
    words = f"epoch {epoch:.2f} s"
    if "refit_seconds" in entries[-1]:
        refit, features = (
            statistics.median(entry[name] for entry in entries[1:]) for name in ("refit_seconds", "features_seconds")
        )
        words += f", k-means {refit / epoch:.1%} of it (at most 2%), features for it {features / epoch:.1%}"
    return found, words


def main() -> None:
    """Measure the cases in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="DATA:METHOD")
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    made = {}
    for case in arguments.cases:
        data, method = case.split(":")
        try:
            found, words = ratios(data, method, arguments.epochs)
        except CorralError as error:
            print(f"{case}: left out ({error})")
            continue
        made[case] = found
        aim = f" (aim {AIMS[data]:.2f})" if data in AIMS else ""
        print(f"{case}: epoch / bare passes {history.words(found)}{aim}; {words}", flush=True)
    history.append("overhead", made)


if __name__ == "__main__":
    main()
