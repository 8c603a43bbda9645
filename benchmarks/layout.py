"""What channels last brings on this CPU: a step of training, and inference, in either order of memory.

Below, what the strided 1×1 convolution of a shortcut costs by `Pointwise`, by a slice and by `nn.Conv2d`; that one has
16 channels here, because it damages memory with fewer (docs/attacks.md, "Order in memory").

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
from torch.nn import functional

import history
from corral.models import BackboneSpec, Classifier, ModelSpec, build_classifier
from corral.models.pointwise import Pointwise

ROUNDS = 9
# Backbone, options, image shape, batch.
CASES = [
    ("convnet", {"width": 8}, (1, 28, 28), 120),
    ("vgg", {"width": 8, "depth": 11}, (1, 28, 28), 120),
    ("resnet", {"width": 8, "depth": 10}, (3, 32, 32), 120),
    ("resnet", {"width": 8, "depth": 10}, (3, 64, 64), 30),
    ("resnet", {"width": 64, "depth": 18}, (3, 32, 32), 32),
]


def seconds(step: Callable[[], object], module: ModuleType) -> tuple[float, float]:
    """The medians of a few rounds with channels last and without, in turn."""
    usual = mock.patch.object(module, "channels_last", lambda images, network: images)
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


class Sliced(Pointwise):
    """The pixels picked by a slice, whose gradient is a copy into zeros."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps as `Pointwise` gives them."""
        rows, columns = self.stride
        return functional.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)


def shortcuts(n: int = 120, channels: int = 16, side: int = 32) -> None:
    """Print the CPU time of a forward and backward pass of each form of a shortcut, between other operations."""
    x = torch.rand(n, side, side, channels).permute(0, 3, 1, 2).requires_grad_()
    forms = {
        "Pointwise": Pointwise(channels, 2 * channels, 2),
        "slice": Sliced(channels, 2 * channels, 2),
        "nn.Conv2d": torch.nn.Conv2d(channels, 2 * channels, 1, 2, bias=False),
    }
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(4 * ROUNDS):
        for name, layer in forms.items():
            maps = x.relu()
            started = time.process_time()
            (layer(maps).sum() + maps.square().sum()).backward()
            taken[name].append(time.process_time() - started)
    found = "  ".join(f"{name} {1e6 * statistics.median(times) / n:.0f}" for name, times in taken.items())
    print(f"a shortcut of {channels} channels, stride 2: {found}")


def main() -> None:
    """Print one line a backbone and pass, and one for the forms of a shortcut."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; microseconds an image")
    ratios: dict[str, list[float]] = {}
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
        told = " ".join(f"{key} {value}" for key, value in [*options.items(), ("side", shape[1])])
        for what, (one, other) in measured(model, x).items():
            ratio = f"{one / other:.2f}"
            ratios[f"{name} {told}, {what}, last / usual"] = [one / other]
            print(f"{name} {told:24s} {what}  last {1e6 * one / n:8.0f}  usual {1e6 * other / n:8.0f}  ratio {ratio}")
    shortcuts()
    history.append("layout", ratios)


if __name__ == "__main__":
    main()
