"""What channels last brings on this CPU: a step of training, and inference, in either order of memory.

OMP_NUM_THREADS=1 python benchmarks/layout.py
"""

import importlib
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from unittest import mock

import torch

from corral.models import BackboneSpec, Classifier, ModelSpec, build_classifier

ROUNDS = 9
# Backbone, options, image shape, batch.
CASES = [
    ("convnet", {"width": 8}, (1, 28, 28), 120),
    ("vgg", {"width": 8, "depth": 11}, (1, 28, 28), 120),
    ("resnet", {"width": 8, "depth": 10}, (3, 32, 32), 120),
    ("resnet", {"width": 64, "depth": 18}, (3, 32, 32), 32),
]


def seconds(step: Callable[[], object], module: ModuleType) -> tuple[float, float]:
    """The medians of a few rounds with channels last and without, in turn."""
    usual = mock.patch.object(module, "channels_last", lambda images: images)
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for place, order in enumerate((nullcontext(), usual)):
            with order:
                started = time.perf_counter()
                step()
                taken[place].append(time.perf_counter() - started)
    return statistics.median(taken[0][1:]), statistics.median(taken[1][1:])


def measured(model: Classifier, x: torch.Tensor) -> dict[str, tuple[float, float]]:
    """Seconds of a forward and backward pass in train mode, as in an attack, and of a forward pass in eval mode."""
    module = importlib.import_module(type(model.backbone).__module__)
    moved = x.clone().requires_grad_()
    model.train()
    training = seconds(lambda: model(moved).sum().backward(), module)
    model.eval()
    with torch.no_grad():
        return {"train": training, "infer": seconds(lambda: model(x), module)}


def main() -> None:
    """Print one line a backbone."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; microseconds an image")
    for name, options, shape, n in CASES:
        spec = ModelSpec(
            backbone=BackboneSpec.model_validate({"name": name, **options}),
            image_shape=shape,
            num_classes=10,
            mean=(0.5,) * shape[0],
            std=(0.25,) * shape[0],
            head="linear",
        )
        model, x = build_classifier(spec), torch.rand(n, *shape)
        told = " ".join(f"{key} {value}" for key, value in options.items())
        for what, (one, other) in measured(model, x).items():
            ratio = f"{one / other:.2f}"
            print(f"{name} {told:24s} {what}  last {1e6 * one / n:8.0f}  usual {1e6 * other / n:8.0f}  ratio {ratio}")


if __name__ == "__main__":
    main()
