"""What an epoch takes with P processes: terms measured here, the model's prediction for 2, and the measurement of 2.

usage: OMP_NUM_THREADS=1 python benchmarks/scaling.py [--methods at corral] [--batch 128] [--images 1280]

ResNet-10 of width 16 on random images of CIFAR-10's size, float32. A step of P processes on n images each takes what
one process needs for n images, what it computes of the P n that all have, and the exchanges: features after every pass,
gradients once (docs/scaling.md). Needs two idle cores. --paper prints the terms for GPUs that nobody measured.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

import corral
from corral.distributed import ranks
from corral.distributed.launch import launched, shared
from corral.training import read_metrics

EPOCHS = 4
WIDTH, DEPTH, STEPS = 16, 10, 3
# Bytes of the exchanges that time a link: its latency and its width.
SMALL, LARGE = 2**10, 2**24


def settings(batch: int) -> dict[str, object]:
    """Of every training here."""
    return {
        "data.validation": 0,
        "data.train": None,
        "model.backbone": "resnet",
        "model.width": WIDTH,
        "model.depth": DEPTH,
        "training.batch_size": batch,
        "training.epochs": EPOCHS,
        "training.precision": "float32",
        "training.warm_start.epochs": 0,
        "training.select": "last",
        "method.inner.steps": STEPS,
        "threat.eps": 8 / 255,
    }


def images(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random images of ten classes, and a few for a test part."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count + 20, 3, 32, 32), generator=generator, dtype=torch.uint8)
    y = torch.arange(count + 20) % 10
    return x[:count], y[:count], x[count:], y[count:]


def epoch_seconds(method: str, batch: int, count: int, folder: Path, **more: object) -> dict[str, float]:
    """Medians over the epochs but the first: of all, and of what follows the steps."""
    chosen = {**settings(batch), **more}
    run = corral.train(method, data=images(count), out=folder, progress=False, loggers=(), **chosen)
    epochs = read_metrics(run.metrics_file)[1:]
    whole = statistics.median(epoch["epoch_seconds"] for epoch in epochs)
    after = statistics.median(epoch.get("features_seconds", 0) + epoch.get("refit_seconds", 0) for epoch in epochs)
    return {"steps": whole - after, "after": after}


def exchange(size: int, repeats: int = 30) -> float:
    """The median seconds of averaging so many bytes over all processes."""
    values, found = torch.zeros(size // 4), []
    for _ in range(repeats):
        ranks.barrier()
        started = time.perf_counter()
        dist.all_reduce(values)
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def together(methods: list[str], batch: int, count: int, folder: Path) -> None:
    """What each of two processes does; the first writes."""
    torch.set_num_threads(1)
    with shared(None, None):
        link = {"small": exchange(SMALL), "large": exchange(LARGE)}
    found = {method: epoch_seconds(method, batch, count, folder / "two" / method) for method in methods}
    own = {"training.batch_norm": "local"}
    local = {method: epoch_seconds(method, batch, count, folder / "local" / method, **own) for method in methods}
    if ranks.speaks():
        document = {"link": link, "two": found, "local": local}
        (folder / "found.json").write_text(json.dumps(document), encoding="utf-8")


def elementwise(batch: int) -> float:
    """Seconds of one adversary's own arithmetic on so many images: start, steps, projections."""
    x = torch.rand(batch, 3, 32, 32)

    def work() -> None:
        moved = (x + 0.03 * torch.rand_like(x)).clamp(0, 1)
        for _ in range(STEPS):
            moved = torch.minimum(torch.maximum(moved + 0.01 * x.sign(), x - 0.03), x + 0.03).clamp(0, 1)

    return median_seconds(work)


def median_seconds(work: Callable[[], object], repeats: int = 9) -> float:
    """Of some calls."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def paper() -> None:
    """Print the terms of a step on GPUs of assumed speeds, for ImageNet-1k (docs/scaling.md names the assumptions)."""
    own, steps, classes, clusters, width = 32, 3, 1000, 2, 2048
    rate, flops, memory = 1200.0, 100e12, 2e12  # images forward and backward, products, bytes: a second and GPU
    inside, between, latency = 200e9, 25e9, 20e-6
    parameters, layers, pixels = 25.6e6, 53, 3 * 224 * 224
    print(
        "| GPUs | passes | adversary on the whole batch | head | features | BatchNorm | gradients | step | efficiency |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    passes, alone = (steps + 1) * own / rate, 0.0
    for gpus in (1, 8, 64):
        batch, link, several = own * gpus, inside if gpus <= 8 else between, gpus > 1
        # Each step reads and writes some six tensors of the batch's pixels in float32, the start two.
        adversary = (6 * steps + 2) * 4 * pixels * batch / memory
        head = (steps + 1) * 6 * batch * classes * clusters * width / flops
        features = several * (steps + 1) * (latency + 4 * batch * width / link)
        norms = several * 2 * layers * latency
        gradients = several * (latency + 2 * 4 * parameters * (gpus - 1) / gpus / link)
        terms = (passes, adversary, head, features, norms, gradients)
        alone = alone or sum(terms)
        cells = " | ".join(f"{1e3 * term:.1f} ms" for term in (*terms, sum(terms)))
        print(f"| {gpus} | {cells} | {alone / sum(terms):.0%} |")


def main() -> None:
    """Measure, predict, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["at", "corral"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--together", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--paper", action="store_true")
    arguments = parser.parse_args()
    if arguments.paper:
        paper()
        return
    batch, count = arguments.batch, arguments.images
    if arguments.together:
        together(arguments.methods, batch, count, arguments.together)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        one = {method: epoch_seconds(method, batch, count, scratch / method) for method in arguments.methods}
        halves = {
            method: epoch_seconds(method, batch // 2, count // 2, scratch / f"{method}-half")
            for method in arguments.methods
        }
        command = [__file__, *sys.argv[1:], "--together", place]
        if launched(command, 2, gpus=None):
            raise SystemExit(1)
        found = json.loads((scratch / "found.json").read_text(encoding="utf-8"))
        parameters = (
            sum(weight.numel() for weight in corral.Run(scratch / "at").model.parameters()) if "at" in one else 0
        )
    latency = found["link"]["small"]
    width = LARGE / max(found["link"]["large"] - latency, 1e-9)
    replicated = elementwise(batch) - elementwise(batch // 2)
    print(f"a link of two processes: {latency * 1e6:.0f} us and {width / 1e9:.2f} GB/s; {parameters:,} parameters")
    steps = -(-count // batch)
    for method in arguments.methods:
        passes = STEPS + 1 + (method == "corral")
        features = 4 * batch * 8 * WIDTH
        # SyncBatchNorm has two small exchanges a layer and pass in train mode: forward, and backward.
        layers = 2 * DEPTH * (passes - STEPS)
        exchanges = passes * (latency + features / width) + layers * latency + latency + 4 * parameters / width
        predicted = halves[method]["steps"] + steps * (replicated + exchanges) + one[method]["after"] / 2
        measured = found["two"][method]["steps"] + found["two"][method]["after"]
        alone = one[method]["steps"] + one[method]["after"]
        print(
            f"{method}: an epoch of one process {alone:.2f} s; of two {measured:.2f} s, predicted {predicted:.2f} s; "
            f"speedup {alone / measured:.2f}, predicted {alone / predicted:.2f}; with local BatchNorm "
            f"{sum(found['local'][method].values()):.2f} s"
        )


if __name__ == "__main__":
    main()
