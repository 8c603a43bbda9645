"""The two projections onto L1 balls in the box, Newton's and the sorted one: CPU milliseconds, and how far they differ.

usage: OMP_NUM_THREADS=1 python benchmarks/projections.py [--n 125] [--pixels 3072]

Newton's is APGD's, whose perturbations are of every pixel; the sorted one is Square's, of a few windows.
"""

import argparse
import statistics
import time

import torch

import history
from corral.attacks.projections import project_l1
from corral.attacks.square.l1 import project_l1 as sorted_l1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=125)
    parser.add_argument("--pixels", type=int, default=3072)
    given = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(given.n, given.pixels, generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    few = torch.rand(x.shape, generator=generator) < 0.05
    ratios: dict[str, list[float]] = {}
    for words, points in (("every pixel", x + 0.05 * noise), ("5% of them", x + 0.5 * noise * few)):
        found, milliseconds = {}, {}
        for name, project in (("newton", project_l1), ("sorted", lambda *given: sorted_l1(*given)[0])):
            seconds = []
            for _ in range(9):
                started = time.process_time()
                found[name] = project(points, x, 12.0)
                seconds.append(time.process_time() - started)
            milliseconds[name] = 1000 * statistics.median(seconds)
        apart = float((found["newton"] - found["sorted"]).abs().max())
        newton, by_sorting = milliseconds["newton"], milliseconds["sorted"]
        ratios[f"{words}, newton / sorted"] = [newton / by_sorting]
        print(f"{words}: newton {newton:.0f} ms, sorted {by_sorting:.0f} ms, apart {apart:.1e}")
    history.append("projections", ratios)


if __name__ == "__main__":
    main()
