"""What an epoch of the corral method costs beside its bare passes, and the share of it that a refit takes.

usage: python benchmarks/overhead.py [--data digits|mnist] [--epochs 3]

The bare passes are the same network's forward and backward passes that the method needs and nothing else: per batch
one clean and one adversarial pass with weight gradients, and `steps` passes with image gradients.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from corral.attacks.state import attacked
from corral.training import Run, Training, load_recipe, read_metrics


def bare_seconds(run: Training, steps: int) -> float:
    """Seconds of one epoch's passes without any of the method's own work."""
    model, images, size = run.model, run.images, run.recipe.training.batch_size
    labels = images.labels
    assert labels is not None
    started = time.perf_counter()
    for rows in torch.split(torch.randperm(len(images), device=run.device), size):
        x = images.float(rows)
        for _ in range(2):
            model.zero_grad()
            torch.nn.functional.cross_entropy(model(x), labels[rows]).backward()
        with attacked(model):
            for _ in range(steps):
                x = x.detach().requires_grad_(True)
                torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), labels[rows]), x)
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    recipe = load_recipe(
        "corral",
        data=arguments.data,
        overrides={"training.epochs": arguments.epochs, "training.warm_start.epochs": 1, "data.validation": 0},
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Run(Path(scratch) / "run")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        run = Training(recipe, folder, device, progress=False)
        run.begin(resume=False)
        cpu, wall = time.process_time(), time.perf_counter()
        run.execute()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        epochs = [entry for entry in read_metrics(folder.metrics_file) if entry["phase"] == "corral"]
        steps = recipe.method.inner.steps if recipe.method.name == "corral" else 0
        bare = statistics.median(bare_seconds(run, steps) for _ in range(3))
    epoch = statistics.median(entry["epoch_seconds"] for entry in epochs)
    refit = statistics.median(entry["refit_seconds"] for entry in epochs)
    features = statistics.median(entry["features_seconds"] for entry in epochs)
    print(
        f"data {arguments.data}, {len(run.images)} images, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"epoch {epoch:.2f} s, bare passes {bare:.2f} s, overhead {epoch / bare - 1:+.1%} (aim 5%)")
    print(f"k-means refit {refit:.3f} s, {refit / epoch:.2%} of an epoch (at most 2%)")
    print(f"features for the refit {features:.3f} s, {features / epoch:.2%} of an epoch (one forward pass of the data)")
    if wall > 1.25 * cpu / max(1, torch.get_num_threads()) and cpu < 0.8 * wall:
        print(f"rejected: {cpu:.1f} CPU seconds in {wall:.1f} s, other work was running; repeat on an idle machine")


if __name__ == "__main__":
    main()
