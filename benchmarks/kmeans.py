"""k-means against scikit-learn on the same cores: `python benchmarks/kmeans.py [--quick]`, OMP_NUM_THREADS as given.

Median of paired runs, wall and CPU seconds; inertia relative to scikit-learn's at equal restarts. A run that had not
the cores to itself is thrown away: with other processes beside it, spinning threads measure the machine, not the code.
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn.cluster
import torch
from torch import Tensor

import history
from corral.geometry import class_kmeans, kmeans

MNIST = Path(__file__).resolve().parents[1] / "../shared/data/mnist.npz"
WIDTH = 512


@dataclass(frozen=True)
class Timed:
    inertia: float
    wall: float
    cpu: float
    others: float


def machine_busy() -> float:
    """CPU seconds that this machine has spent so far on anything, steal included; 0 where /proc is not there."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, *rest = (
        int(field) for field in stat.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], float]) -> Timed:
    busy, before, started = machine_busy(), resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    inertia = work()
    wall, after, spent = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF), machine_busy() - busy
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timed(inertia, wall, cpu, spent - cpu)


def disturbed(run: Timed) -> bool:
    """Whether the run had not the cores to itself: it waited, or the machine spent over a tenth of a core on others."""
    return run.cpu < 0.9 * run.wall or run.others > 0.1 * run.wall + 0.04  # 0.04 s: four ticks of the clock


def features(rows: int, *, synthetic: bool) -> tuple[str, Tensor, Tensor]:
    """Rows of 512 features: a random ReLU layer on MNIST's pixels where they are, a mixture of Gaussians elsewhere."""
    generator = torch.Generator().manual_seed(0)
    if MNIST.exists() and not synthetic:
        with np.load(MNIST, allow_pickle=False) as held:
            pixels = torch.tensor(held["train_images"][:rows].reshape(rows, -1), dtype=torch.float32) / 255
            labels = torch.tensor(held["train_labels"][:rows]).long()
        weight = torch.randn(pixels.shape[1], WIDTH, generator=generator) / pixels.shape[1] ** 0.5
        return "MNIST pixels through a random ReLU layer", (pixels @ weight).relu(), labels
    labels = torch.arange(rows) % 10
    mixing = torch.randn(64, WIDTH, generator=generator)
    centres = 3 * torch.randn(10, WIDTH, generator=generator)
    points = torch.randn(rows, 64, generator=generator) @ mixing + centres[labels]
    return "low-rank Gaussians through ReLU", (points + torch.randn(rows, WIDTH, generator=generator)).relu(), labels


def compare(name: str, ours: Callable[[int], float], theirs: Callable[[int], float], repeats: int) -> list[float]:
    """Print the medians; the ratios of wall seconds, none where every pair was refused."""
    pairs: list[tuple[Timed, Timed]] = []
    refused = 0
    ours(0)
    for seed in range(3 * repeats):
        mine, other = timed(lambda seed=seed: ours(seed)), timed(lambda seed=seed: theirs(seed))
        if disturbed(mine) or disturbed(other):
            refused += 1
        else:
            pairs.append((mine, other))
        if len(pairs) == repeats:
            break
    if not pairs:
        print(f"{name}: REFUSED, all {refused} pairs ran beside other work (CPU and wall seconds disagree)")
        return []
    wall, cpu, wall_other, cpu_other, ratio, inertia = (
        statistics.median(values)
        for values in zip(
            *((a.wall, a.cpu, b.wall, b.cpu, a.wall / b.wall, a.inertia / b.inertia) for a, b in pairs), strict=True
        )
    )
    print(
        f"{name}: corral {wall:.3f} s (CPU {cpu:.3f}), scikit-learn {wall_other:.3f} s (CPU {cpu_other:.3f}), "
        f"ratio {ratio:.2f}, inertia {inertia:.4f}, n={len(pairs)}, refused {refused}",
        flush=True,
    )
    return [mine.wall / other.wall for mine, other in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5,000 rows, once each")
    quick = parser.parse_args().quick
    rows, repeats = (5_000, 1) if quick else (50_000, 3)
    print(f"{rows:,} x {WIDTH}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    ratios: dict[str, list[float]] = {}
    for synthetic in (False, True):
        name, points, labels = features(rows, synthetic=synthetic)
        array, classes = points.numpy(), labels.numpy()
        print(name)
        for restarts in (1, 5):

            def ours(seed: int, restarts: int = restarts) -> float:
                generator = torch.Generator().manual_seed(seed)
                found = class_kmeans(points, labels, 2, num_classes=10, restarts=restarts, generator=generator)  # noqa: B023
                return float(found.inertia)

            def theirs(seed: int, restarts: int = restarts) -> float:
                return sum(
                    sklearn.cluster.KMeans(2, n_init=restarts, random_state=seed).fit(array[classes == c]).inertia_  # noqa: B023
                    for c in range(10)
                )

            told = f"10 classes x 2, restarts {restarts}"
            ratios[f"{name}, {rows} rows, {told}"] = compare(f"  {told}", ours, theirs, repeats)
        units = torch.nn.functional.normalize(points)
        unit_array = units.numpy()

        def spherical(seed: int) -> float:
            generator = torch.Generator().manual_seed(seed)
            return float(kmeans(points, 70, spherical=True, generator=generator).inertia)  # noqa: B023

        def euclidean(seed: int) -> float:
            # scikit-learn has no spherical k-means: plain k-means of unit vectors, its centroids scaled afterwards.
            found = sklearn.cluster.KMeans(70, n_init=1, max_iter=100, random_state=seed).fit(unit_array)  # noqa: B023
            centroids = torch.nn.functional.normalize(torch.tensor(found.cluster_centers_))
            return float((units - centroids[torch.tensor(found.labels_).long()]).square().sum())  # noqa: B023

        ratios[f"{name}, {rows} rows, spherical, K 70"] = compare("  spherical, K 70", spherical, euclidean, repeats)
    history.append("kmeans", ratios)


if __name__ == "__main__":
    main()
