"""CPU seconds of the radii at a demanding user's size, beside one generic quadratic program a pair, at equal answers;
and those of Lipschitz bounds against the network's width.

usage: python benchmarks/certificates.py [--n 10000] [--classes 100] [--clusters 2] [--dimensions 64 512] [--solved 20]
           [--widths 8 16 32 64]

The program is the shortest move into the half-spaces in which one rival centroid is at least as near as every own one.
Two solvers of SciPy do it: Lawson and Hanson's non-negative least squares in their form of least distance programming,
made for just this, on all rivals of a few features, which must agree to 1e-6; and SLSQP, a general one, on a few pairs.
Both are counted up to all pairs. The aim is 100 times a general solver's speed.
The networks are ResNet-10s of 3×32×32 images.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.optimize import minimize, nnls

import history
from corral.certify import nearest_radius, soft_radius
from corral.certify.lipschitz import lipschitz_upper
from corral.models import BackboneSpec, ModelSpec, build_classifier
from corral.records import environment

# Repeats, and programs of the general solver in each.
REPEATS, PROGRAMS = 3, 5


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
    radii, solves, begun = [], 0, time.process_time()
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
    return np.array(radii), time.process_time() - begun, solves


def by_slsqp(features: np.ndarray, centroids: np.ndarray, classes: np.ndarray) -> tuple[list[float], float]:
    """CPU seconds a pair of a general solver, each repeat over a few features and their nearest rivals; and how far
    its distances are from those of the special one, relative to them.
    """
    seconds, off = [], 0.0
    for repeat in range(REPEATS):
        took = 0.0
        for feature in features[repeat * PROGRAMS : (repeat + 1) * PROGRAMS]:
            distances = ((centroids - feature) ** 2).sum(1)
            own = classes == classes[distances.argmin()]
            rival = centroids[~own][distances[~own].argmin()]
            normals, heights = rival - centroids[own], (((feature - rival) ** 2).sum() - distances[own]) / 2
            begun = time.process_time()
            found = minimize(
                lambda x: x @ x / 2,
                np.zeros_like(feature),
                jac=lambda x: x,
                method="SLSQP",
                constraints={"type": "ineq", "fun": lambda x: normals @ x - heights, "jac": lambda x: normals},  # noqa: B023
                options={"ftol": 1e-12, "maxiter": 200},
            )
            took += time.process_time() - begun
            off = max(off, abs(float(np.linalg.norm(found.x)) / least_distance(normals, heights) - 1))
        seconds.append(took / PROGRAMS)
    return seconds, off


def seconds_of(function: Callable[[], object]) -> list[float]:
    """CPU seconds of some calls."""
    seconds = []
    for _ in range(REPEATS):
        begun = time.process_time()
        function()
        seconds.append(time.process_time() - begun)
    return seconds


def of_widths(widths: list[int]) -> dict[str, list[float]]:
    """Print the seconds of a Lipschitz bound at each width; their ratios to those of the width before."""
    before, ratios = None, {}
    for width in widths:
        backbone = BackboneSpec.model_validate({"name": "resnet", "depth": 10, "width": width})
        side = {"image_shape": (3, 32, 32), "num_classes": 10, "mean": (0.5,) * 3, "std": (0.25,) * 3}
        model = build_classifier(ModelSpec(backbone=backbone, head="linear", **side)).eval()
        seconds = seconds_of(partial(lipschitz_upper, model, (3, 32, 32)))
        print(f"Lipschitz bound, width {width:3} {min(seconds):8.3f} s", flush=True)
        if before is not None:
            ratios[f"Lipschitz bound, width {width} / width before"] = [
                now / earlier for now, earlier in zip(seconds, before, strict=True)
            ]
        before = seconds
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--clusters", type=int, default=2)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--solved", type=int, default=20, help="features that the generic solver does")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 32, 64])
    given = parser.parse_args()
    made = environment(torch.device("cpu"))
    print(f"torch {made.torch}, {made.threads} threads, {made.platform}; CPU seconds, best of {REPEATS}")
    wrong, ratios = False, {}
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
        seconds = {name: seconds_of(function) for name, function in timed.items()}
        for name, values in seconds.items():
            print(f"d {dimension:4}  {name:15} {min(values):8.3f} s")
        few = features[: given.solved]
        parts = [by_solver(part.double().numpy(), centroids.double().numpy(), owners.numpy())
                 for part in few.tensor_split(REPEATS)]  # fmt: skip
        expected = np.concatenate([radii for radii, _, _ in parts])
        found = nearest_radius(few, centroids, owners).numpy()
        apart = float(np.abs(found / expected - 1).max())
        pairs = given.n * (len(owners) - given.clusters)
        each = [took / solves for _, took, solves in parts]
        faster = [one * pairs / ours for one, ours in zip(each, seconds["nearest, exact"], strict=True)]
        print(
            f"d {dimension:4}  NNLS: {1e6 * min(each):.0f} us a pair, {min(each) * pairs:.0f} s for all {pairs:,}, "
            f"{history.words(faster)} times exact's; largest difference {apart:.1e} of the radius",
            flush=True,
        )
        general, off = by_slsqp(few[: REPEATS * PROGRAMS].double().numpy(), centroids.double().numpy(), owners.numpy())
        slower = [one * pairs / ours for one, ours in zip(general, seconds["nearest, exact"], strict=True)]
        print(
            f"d {dimension:4}  SLSQP: {1e6 * min(general):.0f} us a pair, {history.words(slower)} times exact's; "
            f"largest difference from NNLS {off:.1e}",
            flush=True,
        )
        ratios[f"d {dimension}, n {given.n}, NNLS / exact radius"] = faster
        ratios[f"d {dimension}, n {given.n}, SLSQP / exact radius"] = slower
        wrong = wrong or apart > 1e-6
    history.append("certificates", ratios | of_widths(given.widths))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
