"""Seconds of the radii at a demanding user's size, beside one generic quadratic program a pair, at equal answers.

usage: python benchmarks/certificates.py [--n 10000] [--classes 100] [--clusters 2] [--dimensions 64 512] [--solved 20]

The generic solver is Lawson and Hanson's non-negative least squares (SciPy), in their form of least distance
programming: the shortest move into the half-spaces in which one rival centroid is at least as near as every own one.
It is timed on the rivals of a few features, all of which must agree to 1e-6, and counted up to all.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.optimize import nnls

from corral.certify import nearest_radius, soft_radius
from corral.records import environment


def least_distance(normals: np.ndarray, heights: np.ndarray) -> float:
    """The length of the shortest x with normals·x >= heights."""
    stacked = np.vstack([normals.T, heights])
    target = np.zeros(len(stacked))
    target[-1] = 1.0
    weights, _ = nnls(stacked, target)
    residual = stacked @ weights - target
    return float(np.linalg.norm(residual[:-1] / residual[-1]))


def by_solver(features: np.ndarray, centroids: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Radii of the nearest rule by one solve a rival centroid, the seconds, and the number of solves."""
    radii, solves, begun = [], 0, time.perf_counter()
    for feature in features:
        distances = ((centroids - feature) ** 2).sum(1)
        own = classes == classes[distances.argmin()]
        mine, others = centroids[own], centroids[~own]
        best = np.inf
        for rival in others:
            heights = (((feature - rival) ** 2).sum() - distances[own]) / 2
            best = min(best, least_distance(rival - mine, heights))
            solves += 1
        radii.append(best)
    return np.array(radii), time.perf_counter() - begun, solves


def best_of(function: Callable[[], object], repeats: int = 3) -> float:
    """Least seconds of some calls."""
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--clusters", type=int, default=2)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--solved", type=int, default=20, help="features that the generic solver does")
    given = parser.parse_args()
    made = environment(torch.device("cpu"))
    print(f"torch {made.torch}, {made.threads} threads, {made.platform}; best of 3")
    wrong = False
    for dimension in given.dimensions:
        generator = torch.Generator().manual_seed(0)
        owners = torch.arange(given.classes * given.clusters) % given.classes
        centroids = torch.randn(len(owners), dimension, generator=generator)
        labels = torch.randint(len(owners), (given.n,), generator=generator)
        features = centroids[labels] + 0.5 * torch.randn(given.n, dimension, generator=generator)
        timed = {
            "nearest, exact": partial(nearest_radius, features, centroids, owners),
            "nearest, fast": partial(nearest_radius, features, centroids, owners, method="fast"),
            "soft": partial(soft_radius, features, centroids, owners, 1.0),
        }
        seconds = {name: best_of(function) for name, function in timed.items()}
        for name, value in seconds.items():
            print(f"d {dimension:4}  {name:15} {value:8.3f} s")
        few = features[: given.solved]
        expected, took, solves = by_solver(few.double().numpy(), centroids.double().numpy(), owners.numpy())
        found = nearest_radius(few, centroids, owners).numpy()
        apart = float(np.abs(found / expected - 1).max())
        pairs = given.n * (len(owners) - given.clusters)
        whole = took / solves * pairs
        print(
            f"d {dimension:4}  solver: {1e6 * took / solves:.0f} us a pair, {whole:.0f} s for all {pairs:,} pairs: "
            f"{whole / seconds['nearest, exact']:.0f} times exact's; largest difference {apart:.1e} of the radius"
        )
        wrong = wrong or apart > 1e-6
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
