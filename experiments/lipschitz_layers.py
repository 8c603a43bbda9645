"""1-Lipschitz layers compared: certified accuracy after equal CPU seconds of the same training, on held-out images.

usage: python experiments/lipschitz_layers.py [--data mnist] [--train 4000] [--seconds 60] [--families shift sll ...]

Every family is trained with the loss, the optimiser and the schedule of the method `certified`; only the layers differ.
Radii are `nearest_radius` with the *guaranteed* constant: the normalisation's times every layer's upper bound.
"aoc" (orthogonium) and "spectral" (deel-torchlip) need those packages and are skipped, with the reason, where they are
not installed; their convolutions' norms are computed here, exactly, by the Fourier transform of their kernels.
"""

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from corral.certify import nearest_radius, normalisation_constant
from corral.data import load, split_validation, stratified_subset
from corral.losses import certified_scores
from corral.models import HalfAbs, LipschitzNet, Orthogonal, SpaceToDepth
from corral.models.classifier import Normalisation

RADII = (0.0, 36 / 255, 0.5, 1.0, 1.58)
FEATURES = 64


def stages(shape: tuple[int, int, int], width: int, depth: int, convolution: Callable[[int], nn.Module]) -> nn.Module:
    """`LipschitzNet` with other convolutions in its blocks."""
    channels, height, breadth = shape
    layers: list[nn.Module] = []
    for out in (width, 2 * width):
        layers += [SpaceToDepth(), Orthogonal(4 * channels, out)]
        for _ in range(depth):
            layers += [convolution(out), HalfAbs()]
        channels = out
    return nn.Sequential(*layers, nn.Flatten(), Orthogonal(channels * height * breadth // 16, FEATURES, bias=False))


def aoc(channels: int) -> nn.Module:
    from orthogonium.layers import AdaptiveOrthoConv2d

    return AdaptiveOrthoConv2d(channels, channels, 3, padding=1, padding_mode="circular")


def spectral(channels: int) -> nn.Module:
    from deel.torchlip import SpectralConv2d

    return SpectralConv2d(channels, channels, 3, padding=1)


FAMILIES: dict[str, Callable[[tuple[int, int, int], int, int], nn.Module]] = {
    "dense": lambda shape, width, depth: LipschitzNet(shape[0], shape[1:], 16 * width, depth, FEATURES, "dense"),
    "shift": lambda shape, width, depth: LipschitzNet(shape[0], shape[1:], width, depth, FEATURES, "shift"),
    "sll": lambda shape, width, depth: LipschitzNet(shape[0], shape[1:], width, depth, FEATURES, "sll"),
    "aoc": lambda shape, width, depth: stages(shape, width, depth, aoc),
    "spectral": lambda shape, width, depth: stages(shape, width, depth, spectral),
}

OTHERS = ("aoc", "spectral")


def convolution_norm(layer: nn.Conv2d, size: int) -> float:
    """The operator norm of a convolution: exact if its padding is circular, an upper bound if it is zeros.

    A zero-padded convolution is part of the circular one on a grid that is larger by k - 1.
    """
    grid = size if layer.padding_mode == "circular" else size + layer.weight.shape[2] - 1
    kernel = torch.fft.fft2(layer.weight.detach().double(), (grid, grid)).permute(2, 3, 0, 1)
    return float(torch.linalg.matrix_norm(kernel, 2).max()) * (1 + 1e-12)


def constant(net: nn.Module, x: Tensor) -> float:
    """The product of all layers' bounds, with the image x passing through for the sizes."""
    bounds: list[float] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            bounds.append(convolution_norm(layer, inputs[0].shape[2]))
        elif callable(bound := getattr(layer, "lipschitz_bound", None)):
            bounds.append(bound(tuple(inputs[0].shape)))

    hooks = [layer.register_forward_hook(note) for layer in net.modules()]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return math.prod(bounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--validation", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of training, each")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--eps", type=float, default=1.58)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--learning-rate", type=float, default=3e-2)
    parser.add_argument("--others-learning-rate", type=float, default=1e-2)
    parser.add_argument("--centroids-learning-rate", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    held, validation = split_validation(load(options.data).train, options.validation, seed=0)
    held = stratified_subset(held, options.train, seed=0)
    x, y, xv, yv = held.float(), held.labels, validation.float(), validation.labels
    assert y is not None
    assert yv is not None
    normalise = Normalisation(x.mean((0, 2, 3)), x.std((0, 2, 3)))
    first = normalisation_constant(normalise.std)
    classes = torch.arange(int(y.max()) + 1)
    print(f"{options.data}, {len(x)} training and {len(xv)} held-out images, {vars(options)}")
    print("family   steps  CPU s  wall s  " + "  ".join(f"r>{radius:.3f}" for radius in RADII) + "  backbone bound")
    for family in options.families:
        torch.manual_seed(options.seed)
        try:
            net = FAMILIES[family](held.shape, options.width, options.depth)
            net(normalise(x[:2]))
        except (ImportError, RuntimeError, ValueError, TypeError) as error:
            print(f"{family:8} skipped: {type(error).__name__}: {error}")
            continue
        centroids = nn.Parameter(torch.eye(len(classes), FEATURES))
        variance = math.sqrt(2) * first * options.temperature
        # Learning rates of other packages' parametrisations: at the rate of corral's layers their weights become NaN.
        rate = options.learning_rate if family not in OTHERS else options.others_learning_rate
        rates = (rate, options.centroids_learning_rate)
        optimiser = torch.optim.Adam(
            [{"params": list(net.parameters()), "lr": rates[0]}, {"params": [centroids], "lr": rates[1]}]
        )
        cpu, wall, steps, share = time.process_time(), time.perf_counter(), 0, 0.0
        while share < 1:
            for rows in torch.randperm(len(x)).split(options.batch):
                share = (time.process_time() - cpu) / options.seconds
                if share >= 1:
                    break
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * (1 + math.cos(math.pi * share)) / 2
                scores = certified_scores(
                    net(normalise(x[rows])), y[rows], centroids, classes, variance, radius=options.eps * first
                )
                optimiser.zero_grad()
                nn.functional.cross_entropy(scores, y[rows]).backward()
                optimiser.step()
                steps += 1
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        net.eval()
        if not all(bool(torch.isfinite(parameter).all()) for parameter in net.parameters()):
            print(f"{family:8} {steps:5d} {cpu:6.1f} {wall:7.1f}  the weights are not finite: lower the learning rate")
            continue
        with torch.no_grad():
            features = torch.cat([net(normalise(part)) for part in xv.split(250)])
        bound = constant(net, normalise(xv[:1]))
        radii = nearest_radius(features, centroids.detach(), classes, lipschitz=first * bound)
        right = torch.cdist(features, centroids.detach()).argmin(1) == yv
        shares = [float(((radii > radius) & right).double().mean()) for radius in RADII]
        print(
            f"{family:8} {steps:5d} {cpu:6.1f} {wall:7.1f}  "
            + "  ".join(f"{100 * share:7.1f}" for share in shares)
            + f"  {bound:.9f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
