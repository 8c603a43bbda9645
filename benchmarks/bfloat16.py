"""CPU seconds of a pass in float32 over those in bfloat16: forward and backward, ResNet-10 of width 16, 128 images.

usage: [ONEDNN_MAX_CPU_ISA=AVX512_CORE] OMP_NUM_THREADS=1 python benchmarks/bfloat16.py

The environment variable takes instructions away: AVX512_CORE and AVX2 have none for bfloat16. Median of five pairs, in
turn, after one that does not count.
"""

import statistics
import time

import torch

from corral.models.backbones.resnet import ResNet

PAIRS = 5


def seconds(network: torch.nn.Module, x: torch.Tensor, *, narrow: bool) -> float:
    """CPU seconds of one forward and backward pass."""
    started = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        features = network(x)
    features.float().square().sum().backward()
    return time.process_time() - started


def main() -> None:
    """Print the ratio with its spread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, x = ResNet(3, width=16, depth=10), torch.rand(128, 3, 32, 32)
    pairs = [[seconds(network, x, narrow=narrow) for narrow in (False, True)] for _ in range(PAIRS + 1)][1:]
    ratios = sorted(narrow / wide for wide, narrow in pairs)
    wide = statistics.median(pair[0] for pair in pairs)
    print(
        f"bfloat16 / float32: {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}); float32 {wide:.3f} s"
    )


if __name__ == "__main__":
    main()
