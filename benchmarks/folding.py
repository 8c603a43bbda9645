"""CPU seconds of an attack's passes with BatchNorm folded into the convolutions, over those without.

usage: OMP_NUM_THREADS=1 python benchmarks/folding.py

Median and range of nine pairs, in turn, after one that does not count; networks of random weights, in eval mode.
"""

import statistics
import time

import torch
from torch import nn

from corral.attacks.state import attacked
from corral.models.backbones.resnet import ResNet
from corral.models.backbones.resnet_imagenet import ResNetImageNet
from corral.models.backbones.vgg import VGG
from corral.models.backbones.wideresnet import WideResNet

PAIRS = 9
# Network, side of the images, how many.
CASES = [
    ("ResNet-10 of width 16", ResNet(3, 16, 10), 32, 125),
    ("ResNet-18 of width 64", ResNet(3, 64, 18), 32, 16),
    ("WRN-16-4", WideResNet(3, 16, 4), 32, 32),
    ("VGG-11 of width 8", VGG(3, 8, 11), 32, 125),
    ("ResNet-50, 224 pixels", ResNetImageNet(3, 64, 50), 224, 2),
]


def seconds(network: nn.Module, x: torch.Tensor, *, fold: bool, backward: bool) -> float:
    """CPU seconds of one pass; what folding itself takes is not in it."""
    with attacked(network, fold=fold), torch.set_grad_enabled(backward):
        some = x.clone().requires_grad_(backward)
        started = time.process_time()
        features = network(some)
        if backward:
            torch.autograd.grad(features.sum(), some)
        return time.process_time() - started


def ratio(network: nn.Module, x: torch.Tensor, *, backward: bool) -> str:
    """Folded over unfolded, with its range."""
    pairs = [[seconds(network, x, fold=fold, backward=backward) for fold in (True, False)] for _ in range(PAIRS + 1)]
    ratios = sorted(folded / plain for folded, plain in pairs[1:])
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"


def main() -> None:
    """Print a table in Markdown."""
    torch.set_num_threads(1)
    print("| network | forward | forward and backward |\n|---|---|---|")
    for name, network, side, count in CASES:
        x = torch.rand(count, 3, side, side)
        print(f"| {name} | {ratio(network, x, backward=False)} | {ratio(network, x, backward=True)} |", flush=True)


if __name__ == "__main__":
    main()
