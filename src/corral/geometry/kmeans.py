"""k-means of all classes at once on the device: seeding, restarts, Lloyd's iterations to a fixed point.

Every class is its own problem. Classes advance together, with one transfer to the host an iteration; on the CPU in
groups that fit its cache. All restarts of a class share each read of its features.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from corral.distributed import ranks
from corral.geometry.lloyd import Problem, advance
from corral.geometry.shared_kmeans import SharedProblem

Seeding = Literal["k-means++", "afk-mc2"]
CACHE_BYTES = 16 * 2**20
CLASS_STRIDE = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class KMeans:
    """Clusters of one set of points.

    `centroids` is (k, d), `assignments` (N,) int64 in [0, k), `inertia` the sum of squared distances to the assigned
    centroids (scalar float64), `iterations` how many Lloyd iterations ran until the last restart stopped.
    """

    centroids: Tensor
    assignments: Tensor
    inertia: Tensor
    iterations: int


@dataclass(frozen=True)
class ClassClusters(KMeans):
    """Clusters of every class, in class order: (M, d) `centroids`, and `classes` (M,) int64 the class of each.

    `assignments` (N,) int64 in [0, M) are clusters of the point's own class; `inertia` is summed over the classes,
    `iterations` the most that any class took.
    """

    classes: Tensor


def kmeans(
    points: Tensor,
    k: int,
    *,
    spherical: bool = False,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    max_iterations: int = 100,
    seeding: Seeding = "k-means++",
    shared: bool = False,
) -> KMeans:
    """k-means of one set of points: the fixed point of least inertia among `restarts` seeded starts.

    Args:
        points: (N, d) finite floats on any device; half precision is computed in float32.
        k: number of clusters, 1 <= k <= N. With fewer than k distinct points some clusters have no member.
        spherical: cluster directions: points are scaled to unit norm (a zero vector stays zero), centroids have unit
            norm and the cosine to them is maximised; the inertia is that of the unit vectors.
        restarts: number of seedings, at least 1.
        generator: source of all randomness, on any device; the same state gives the same result.
        max_iterations: bound on Lloyd iterations, which otherwise stop when no assignment changes.
        seeding: greedy "k-means++" of N k d products, or "afk-mc2", whose Markov chains take k^2 d of them: cheaper
            where N / k is large (at N = 20,000 up to k = 200).
        shared: the points are this process's block of those of several, in the order of the processes; N is then their
            number in all of them, and `assignments` are of this block.

    Returns:
        `KMeans`, on the points' device.

    Raises:
        ValueError: k or restarts are impossible, or points are not finite.
    """
    _check_points(points)
    total = sum(ranks.everyones(len(points))) if shared else len(points)
    if total < k:
        raise ValueError(f"k-means needs at least k points: there are {total}, k is {k}")
    ks = _cluster_counts(k, 1)
    if seeding not in get_args(Seeding):
        raise ValueError(f"seeding {seeding!r} is not one of {', '.join(get_args(Seeding))}")
    if shared and ranks.size() > 1:
        return _fit_shared(points, k, spherical, restarts, generator, max_iterations, seeding)
    order = torch.arange(len(points), device=points.device)
    found = _fit(points, order, [len(points)], ks, spherical, restarts, generator, max_iterations, seeding)
    return KMeans(found.centroids, found.assignments, found.inertia, found.iterations)


def cluster_sizes(assignments: Tensor, k: int, *, shared: bool = False) -> Tensor:
    """(k,) members of each cluster, of (N,) assignments; `shared`: of those of all processes."""
    sizes = torch.bincount(assignments, minlength=k)
    return ranks.summed(sizes) if shared else sizes


@torch.no_grad()
def _fit_shared(
    points: Tensor,
    k: int,
    spherical: bool,
    restarts: int,
    generator: torch.Generator | None,
    max_iterations: int,
    seeding: Seeding,
) -> KMeans:
    block = points.detach()
    block = block.float() if block.dtype in (torch.float16, torch.bfloat16) else block.clone()
    seeds = _seeds(_base(generator), 0, k, restarts, seeding)
    with torch.autocast(points.device.type, enabled=False):
        problem = SharedProblem(block, k, seeds, spherical)
        iterations = advance([problem], max_iterations)
        centroids = (problem.best_centroids + problem.origin).to(block.dtype)
        return KMeans(centroids, problem.best_assignments, problem.exact_inertia(), iterations)


def class_kmeans(
    points: Tensor,
    labels: Tensor,
    k: int | Sequence[int],
    *,
    num_classes: int,
    spherical: bool = False,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    max_iterations: int = 100,
    numbers: Sequence[int] | None = None,
) -> ClassClusters:
    """k-means of each class's points (methods: "Centroids"), all classes together.

    A class's clusters depend on the generator's state, the class's number and its points only, not on other classes.

    Args:
        points: (N, d) finite floats on any device; half precision is computed in float32.
        labels: (N,) integers in [0, C).
        k: clusters per class, one number or one per class; at most the members of the class.
        num_classes: C.
        spherical: as in `kmeans`.
        restarts: for each class, which takes its own best one.
        generator: as in `kmeans`.
        max_iterations: as in `kmeans`.
        numbers: of the classes, where these are a part of all: (C,) by which their random numbers are drawn.

    Returns:
        `ClassClusters`, on the points' device.

    Raises:
        ValueError: labels, k or restarts are impossible, a class has fewer than k members, or points are not finite.
    """
    _check_points(points)
    if labels.shape != points.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be ({len(points)},) integers, found {tuple(labels.shape)} {labels.dtype}")
    ks = _cluster_counts(k, num_classes)
    labels = labels.to(points.device, torch.long)
    if len(labels):
        least, most = torch.stack(labels.aminmax()).tolist()
        if least < 0 or most >= num_classes:
            raise ValueError(f"labels must be in [0, {num_classes}), found {least} to {most}")
    sizes = torch.bincount(labels, minlength=num_classes).tolist()
    for label, (members, wanted) in enumerate(zip(sizes, ks, strict=True)):
        if wanted > members:
            raise ValueError(f"class {label} has {members} members, fewer than its k = {wanted} clusters")
    order = labels.argsort(stable=True)
    return _fit(points, order, sizes, ks, spherical, restarts, generator, max_iterations, numbers=numbers)


def _check_points(points: Tensor) -> None:
    if points.ndim != 2 or not points.is_floating_point():
        raise ValueError(f"points must be (N, d) floats, found {tuple(points.shape)} {points.dtype}")
    # One reduction that is finite only if every value is: several times cheaper than isfinite on every value.
    wide = points.dtype if points.dtype == torch.float64 else torch.float32
    if bool(torch.linalg.vector_norm(points.detach(), dtype=wide).isfinite()):
        return
    bad = int((~points.detach().isfinite().all(1)).sum())
    if bad:
        raise ValueError(f"points must be finite: {bad} of {len(points)} rows hold NaN or infinity")
    raise ValueError(f"points are so large that their squares overflow {wide}: rescale them")


def _cluster_counts(k: int | Sequence[int], num_classes: int) -> list[int]:
    ks = [k] * num_classes if isinstance(k, int) else [int(count) for count in k]
    if len(ks) != num_classes or num_classes < 1:
        raise ValueError(f"k needs one number for each of the {num_classes} classes, found {len(ks)}")
    if min(ks) < 1:
        raise ValueError(f"k must be at least 1, found {min(ks)}")
    return ks


def _groups(sizes: list[int], row_bytes: int, limit: float) -> Iterator[list[int]]:
    """Runs of consecutive classes whose rows together stay within `limit` bytes (a larger class goes alone)."""
    group: list[int] = []
    for label, size in enumerate(sizes):
        if group and (sum(sizes[other] for other in group) + size) * row_bytes > limit:
            yield group
            group = []
        group.append(label)
    yield group


def _seeds(base: int, label: int, k: int, restarts: int, seeding: Seeding) -> Tensor | list[torch.Generator]:
    """The random numbers of one class's seeding, which do not depend on other classes; see `Problem`."""
    if seeding == "afk-mc2":
        seeds = [base + (label * 2**20 + restart) * CLASS_STRIDE for restart in range(restarts)]
        return [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]
    own = torch.Generator().manual_seed((base + label * CLASS_STRIDE) % 2**63)
    return torch.rand(restarts, 1 + (k - 1) * (2 + int(math.log(k))), generator=own, dtype=torch.float64)


def _base(generator: torch.Generator | None) -> int:
    """The number that all seeds of a call are made of."""
    device = generator.device if generator is not None else torch.device("cpu")
    return int(torch.randint(2**62, (), generator=generator, device=device))


@torch.no_grad()
def _fit(
    points: Tensor,
    order: Tensor,
    sizes: list[int],
    ks: list[int],
    spherical: bool,
    restarts: int,
    generator: torch.Generator | None,
    max_iterations: int,
    seeding: Seeding = "k-means++",
    numbers: Sequence[int] | None = None,
) -> ClassClusters:
    if restarts < 1 or max_iterations < 1:
        raise ValueError(f"restarts and max_iterations must be at least 1, found {restarts} and {max_iterations}")
    device = points.device
    points = points.detach()
    if points.dtype in (torch.float16, torch.bfloat16):
        points = points.float()
    base = _base(generator)
    assignments = torch.empty(len(points), dtype=torch.long, device=device)
    centroids, inertia, iterations = [], torch.zeros((), dtype=torch.float64, device=device), 0
    starts = [sum(sizes[:label]) for label in range(len(sizes) + 1)]
    first_cluster = [sum(ks[:label]) for label in range(len(ks))]
    row_bytes = points.shape[1] * points.element_size()
    groups = list(_groups(sizes, row_bytes, CACHE_BYTES if device.type == "cpu" else math.inf))
    buffer = points.new_empty(max(starts[group[-1] + 1] - starts[group[0]] for group in groups), points.shape[1])
    with torch.autocast(device.type, enabled=False):
        for group in groups:
            offset, problems = starts[group[0]], []
            for label in group:
                begin, end = starts[label], starts[label + 1]
                members = buffer[begin - offset : end - offset]
                torch.index_select(points, 0, order[begin:end], out=members)
                seeds = _seeds(base, label if numbers is None else numbers[label], ks[label], restarts, seeding)
                problems.append(Problem(members, ks[label], seeds, spherical))
            iterations = max(iterations, advance(problems, max_iterations))
            for label, problem in zip(group, problems, strict=True):
                indices = order[starts[label] : starts[label + 1]]
                assignments[indices] = problem.best_assignments + first_cluster[label]
                centroids.append((problem.best_centroids + problem.origin).to(points.dtype))
                inertia += problem.exact_inertia()
    classes = torch.repeat_interleave(torch.arange(len(ks)), torch.tensor(ks)).to(device)
    return ClassClusters(torch.cat(centroids), assignments, inertia, iterations, classes)
