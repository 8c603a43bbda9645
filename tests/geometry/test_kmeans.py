"""k-means: facts of the method, a slow twin, scikit-learn's answers, degenerate input."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.cluster
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from tests.oracles import squared_distances
from torch import Tensor

from corral.geometry import class_kmeans, kmeans, lloyd
from corral.geometry.kmeans import KMeans


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)


def assert_fixed_point(points: Tensor, found: KMeans, tolerance: float = 1e-5) -> None:
    """Each point is with its nearest centroid, each centroid is the mean of its points, the inertia is theirs."""
    distances = squared_distances(points.double(), found.centroids.double())
    scale = float((points.double() - points.double().mean(0)).square().sum(1).max())
    # What rounding the centroids to the points' precision may move a squared distance by.
    unit = torch.finfo(points.dtype).eps * float(points.abs().max())
    rounding = points.shape[1] * (2 * scale**0.5 * unit + unit**2)
    own = distances.gather(1, found.assignments.unsqueeze(1)).squeeze(1)
    assert float((own - distances.amin(1)).max()) <= tolerance * scale + rounding
    for cluster in found.assignments.unique():
        mean = points[found.assignments == cluster].double().mean(0)
        apart = float((found.centroids[cluster].double() - mean).square().sum())
        assert apart <= tolerance**2 * scale + points.shape[1] * unit**2
    assert float(found.inertia) == pytest.approx(float(own.sum()), rel=1e-4, abs=len(points) * rounding)


def slow_lloyd(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """Lloyd's algorithm as in a textbook, in float64; also the inertia after each iteration."""
    points, centroids, history = points.double(), centroids.double().clone(), []
    assigned = squared_distances(points, centroids).argmin(1)
    while True:
        for cluster in range(len(centroids)):
            if (assigned == cluster).any():
                centroids[cluster] = points[assigned == cluster].mean(0)
        distances = squared_distances(points, centroids)
        history.append(float(distances.amin(1).sum()))
        renewed = distances.argmin(1)
        if torch.equal(renewed, assigned):
            return centroids, assigned, history
        assigned = renewed


@pytest.mark.parametrize(("rows", "k"), [(600, 5), (2500, 2), (2500, 8)])
def test_equals_the_slow_twin_from_the_same_seeding(rows: int, k: int) -> None:
    # 2,500 rows take the path that skips rows which cannot change cluster; it must change nothing.
    points = torch.randn(rows, 6, generator=seeded(rows + k))
    problem = lloyd.Problem(points.double(), k, torch.rand(1, 1 + (k - 1) * 3, generator=seeded(1)).double(), False)
    start = problem.centroids[0] + problem.origin
    lloyd.advance([problem], 1000)
    centroids, assigned, history = slow_lloyd(points, start)
    torch.testing.assert_close(problem.best_centroids + problem.origin, centroids)
    assert torch.equal(problem.best_assignments, assigned)
    assert float(problem.best_inertia) == pytest.approx(history[-1], rel=1e-9)


@pytest.mark.parametrize("spherical", [False, True])
def test_inertia_never_rises_with_iterations(digits: tuple[Tensor, Tensor], spherical: bool) -> None:
    inertias = [
        float(kmeans(digits[0], 10, spherical=spherical, generator=seeded(), max_iterations=bound).inertia)
        for bound in range(1, 25)
    ]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(inertias))
    assert inertias[-1] < 0.99 * inertias[0]


@pytest.mark.parametrize("restarts", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_is_a_fixed_point(digits: tuple[Tensor, Tensor], restarts: int, dtype: torch.dtype) -> None:
    points = digits[0].to(dtype)
    found = kmeans(points, 7, restarts=restarts, generator=seeded())
    assert found.centroids.dtype == dtype
    assert found.iterations < 100
    assert_fixed_point(points, found)


def test_spherical_result_is_a_fixed_point_of_unit_vectors(digits: tuple[Tensor, Tensor]) -> None:
    found = kmeans(digits[0], 10, spherical=True, restarts=2, generator=seeded())
    units = torch.nn.functional.normalize(digits[0].double())
    torch.testing.assert_close(found.centroids.norm(dim=1), torch.ones(10))
    cosines = units @ found.centroids.double().T
    own = cosines.gather(1, found.assignments.unsqueeze(1)).squeeze(1)
    assert float((cosines.amax(1) - own).max()) < 1e-6
    for cluster in range(10):
        direction = torch.nn.functional.normalize(units[found.assignments == cluster].sum(0), dim=0)
        torch.testing.assert_close(found.centroids[cluster].double(), direction, atol=1e-6, rtol=0)
    assert float(found.inertia) == pytest.approx(float((2 - 2 * own).sum()), rel=1e-5)


def test_spherical_ignores_the_norms(digits: tuple[Tensor, Tensor]) -> None:
    scales = 2.0 ** torch.randint(-60, 40, (len(digits[0]), 1), generator=seeded())
    plain = kmeans(digits[0], 5, spherical=True, generator=seeded(1))
    scaled = kmeans(digits[0] * scales, 5, spherical=True, generator=seeded(1))
    assert torch.equal(plain.assignments, scaled.assignments)


def test_within_one_percent_of_scikit_learn_on_digits(digits: tuple[Tensor, Tensor]) -> None:
    points, labels = digits
    ours = [float(kmeans(points, 10, restarts=5, generator=seeded(seed)).inertia) for seed in range(3)]
    theirs = [sklearn.cluster.KMeans(10, n_init=5, random_state=seed).fit(points.numpy()).inertia_ for seed in range(3)]
    assert np.mean(ours) <= 1.01 * np.mean(theirs)
    by_class = class_kmeans(points, labels, 3, num_classes=10, restarts=5, generator=seeded())
    reference = sum(
        sklearn.cluster.KMeans(3, n_init=5, random_state=0).fit(points[labels == label].numpy()).inertia_
        for label in range(10)
    )
    assert float(by_class.inertia) <= 1.01 * reference


@pytest.mark.real_data
def test_within_one_percent_of_scikit_learn_on_mnist(shared: Path) -> None:
    with np.load(shared / "mnist.npz", allow_pickle=False) as held:
        images, labels = held["train_images"][:6000], held["train_labels"][:6000]
    points = torch.tensor(images.reshape(len(images), -1), dtype=torch.float32) / 255
    ours = class_kmeans(points, torch.tensor(labels).long(), 2, num_classes=10, restarts=3, generator=seeded())
    theirs = sum(
        sklearn.cluster.KMeans(2, n_init=3, random_state=0).fit(points[labels == label].numpy()).inertia_
        for label in range(10)
    )
    assert float(ours.inertia) == pytest.approx(theirs, rel=0.01)


def test_recovers_separated_blobs_whatever_the_order() -> None:
    generator = seeded(3)
    truth = torch.arange(8).repeat_interleave(40)
    centres = 100 * torch.randn(8, 5, generator=generator)
    points = centres[truth] + torch.randn(320, 5, generator=generator)
    shuffled = torch.randperm(320, generator=generator)
    found = kmeans(points, 8, restarts=5, generator=seeded())
    permuted = kmeans(points[shuffled], 8, restarts=5, generator=seeded())
    pairs = torch.stack([truth, found.assignments], 1).unique(dim=0)
    assert len(pairs) == 8
    assert pairs[:, 1].unique().numel() == 8
    assert float(found.inertia) == pytest.approx(float(permuted.inertia), rel=1e-6)
    assert_fixed_point(points, found)


def test_huge_common_offset_costs_no_clusters() -> None:
    points = torch.cat([torch.zeros(50, 3), torch.ones(50, 3) * 8]) + 1e6
    found = kmeans(points, 2, generator=seeded())
    assert float(found.inertia) == 0
    assert sorted(found.centroids[:, 0].tolist()) == [1e6, 1e6 + 8]


def test_tight_clusters_far_apart_keep_the_digits_of_their_inertia() -> None:
    noise = torch.randn(400, 4, generator=seeded(), dtype=torch.float64) * 1e-3
    points = noise + 1000 * (torch.arange(400) % 2).unsqueeze(1)
    found = kmeans(points.float(), 2, generator=seeded())
    assert_fixed_point(points.float(), found)
    own = squared_distances(points.float().double(), found.centroids.double()).amin(1).sum()
    assert float(found.inertia) == pytest.approx(float(own), rel=0.05)


def test_same_seed_same_bits_and_more_restarts_never_worse(digits: tuple[Tensor, Tensor]) -> None:
    once, again = (kmeans(digits[0], 10, restarts=2, generator=seeded(5)) for _ in range(2))
    assert torch.equal(once.centroids, again.centroids)
    assert torch.equal(once.assignments, again.assignments)
    single = kmeans(digits[0], 10, restarts=1, generator=seeded(5))
    assert float(once.inertia) <= float(single.inertia) * (1 + 1e-6)
    assert float(kmeans(digits[0], 10, generator=seeded(6)).inertia) != float(single.inertia)


def test_classes_do_not_disturb_each_other(digits: tuple[Tensor, Tensor]) -> None:
    points, labels = digits
    ks = [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
    both = class_kmeans(points, labels, ks, num_classes=10, restarts=2, generator=seeded())
    assert both.classes.tolist() == [label for label, k in enumerate(ks) for _ in range(k)]
    assert torch.equal(both.classes[both.assignments], labels)
    other = torch.where((labels == 4).unsqueeze(1), points, points.flip(1) * 3)
    changed = class_kmeans(
        other, labels, [2, 2, 2, 2, 5, 2, 2, 2, 2, 2], num_classes=10, restarts=2, generator=seeded()
    )
    assert torch.equal(both.centroids[both.classes == 4], changed.centroids[changed.classes == 4])
    for label in range(10):
        members = labels == label
        alone = KMeans(
            both.centroids[both.classes == label],
            both.assignments[members] - int((both.classes < label).sum()),
            squared_distances(points[members].double(), both.centroids[both.classes == label].double()).amin(1).sum(),
            0,
        )
        assert_fixed_point(points[members], alone)
    own = (points.double() - both.centroids[both.assignments].double()).square().sum()
    assert float(both.inertia) == pytest.approx(float(own), rel=1e-5)


def test_kmeans_is_class_kmeans_of_one_class(digits: tuple[Tensor, Tensor]) -> None:
    one = kmeans(digits[0], 6, restarts=3, generator=seeded(9))
    same = class_kmeans(digits[0], torch.zeros_like(digits[1]), 6, num_classes=1, restarts=3, generator=seeded(9))
    assert torch.equal(one.centroids, same.centroids)
    assert torch.equal(one.assignments, same.assignments)


def test_grouping_of_classes_changes_nothing(digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    together = class_kmeans(*digits, 3, num_classes=10, restarts=2, generator=seeded())
    # The function `kmeans` hides its module of the same name.
    monkeypatch.setattr(sys.modules["corral.geometry.kmeans"], "CACHE_BYTES", 1)
    apart = class_kmeans(*digits, 3, num_classes=10, restarts=2, generator=seeded())
    assert torch.equal(together.centroids, apart.centroids)
    assert torch.equal(together.assignments, apart.assignments)


@pytest.mark.parametrize("spherical", [False, True])
def test_skipping_rows_changes_nothing(
    digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, spherical: bool
) -> None:
    points = digits[0].double()
    plain = kmeans(points, 6, spherical=spherical, restarts=3, generator=seeded(2))
    monkeypatch.setattr(lloyd, "SKIPPING_PAYS", 0)
    monkeypatch.setattr(lloyd, "GATHER_COST", 1)
    skipping = kmeans(points, 6, spherical=spherical, restarts=3, generator=seeded(2))
    assert torch.equal(plain.assignments, skipping.assignments)
    torch.testing.assert_close(plain.centroids, skipping.centroids)
    assert plain.iterations == skipping.iterations


def test_half_precision_is_computed_in_float32_and_gradients_stay_out(digits: tuple[Tensor, Tensor]) -> None:
    half = kmeans(digits[0].half(), 4, generator=seeded())
    full = kmeans(digits[0].clone().requires_grad_(), 4, generator=seeded())
    assert half.centroids.dtype == torch.float32
    assert torch.equal(half.assignments, full.assignments)
    assert not full.centroids.requires_grad


def test_one_outlier_gets_the_empty_cluster() -> None:
    # Both first centroids at the same place: the second cluster starts empty and must take the far point.
    points = torch.cat([torch.zeros(20, 2), torch.tensor([[5.0, 0.0]])]).double()
    problem = lloyd.Problem(points, 2, torch.zeros(1, 3).double(), False)
    problem.assignments = torch.zeros(1, 21, dtype=torch.long)
    problem.centroids = problem.points[:1].expand(2, 2).unsqueeze(0).clone()
    problem.sums, problem.counts = problem._sums(problem.assignments)
    # A mean far off for cluster 0 and the empty one farther still keep all points in cluster 0 for one step.
    problem.centroids[0, 1] = torch.tensor([1e3, 1e3])
    lloyd.advance([problem], 10)
    assert problem.best_assignments.bincount().sort().values.tolist() == [1, 20]
    assert float(problem.best_inertia) == pytest.approx(0, abs=1e-12)


@settings(max_examples=120, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([1e-6, 1.0, 1e5]),
    st.sampled_from([0.0, 1.0, -1e6]),
    st.integers(0, 10**6),
)
def test_degenerate_points_stay_finite(
    rows: int, width: int, k: int, restarts: int, spherical: bool, scale: float, offset: float, seed: int
) -> None:
    # Few small integers: duplicates, constant features, zero vectors, k at and above the number of distinct points.
    points = torch.randint(-1, 2, (rows, width), generator=seeded(seed)).float() * scale + offset
    k = min(k, rows)
    found = kmeans(points, k, spherical=spherical, restarts=restarts, generator=seeded(seed))
    assert found.centroids.shape == (k, width)
    assert bool(found.centroids.isfinite().all())
    assert 0 <= float(found.inertia) < float("inf")
    assert int(found.assignments.min()) >= 0
    assert int(found.assignments.max()) < k
    if not spherical:
        assert_fixed_point(points, found)
        if k >= len(points.unique(dim=0)):
            assert float(found.inertia) <= 1e-9 * float((points - points.mean(0)).square().sum())


def test_as_many_clusters_as_points_gives_each_its_own() -> None:
    points = torch.randn(9, 3, generator=seeded())
    found = kmeans(points, 9, generator=seeded())
    assert sorted(found.assignments.tolist()) == list(range(9))
    assert float(found.inertia) == pytest.approx(0, abs=1e-10)


def test_zero_vectors_have_no_direction_and_no_nan() -> None:
    points = torch.cat([torch.zeros(5, 3), torch.eye(3).repeat(4, 1)])
    found = kmeans(points, 3, spherical=True, restarts=3, generator=seeded())
    assert bool(found.centroids.isfinite().all())
    everything = kmeans(torch.zeros(4, 3), 2, spherical=True, generator=seeded())
    assert bool(everything.centroids.isfinite().all())


def test_non_finite_points_are_counted() -> None:
    points = torch.randn(10, 3)
    points[2, 1], points[7, 0], points[7, 2] = torch.nan, torch.inf, -torch.inf
    with pytest.raises(ValueError, match="2 of 10 rows"):
        kmeans(points, 2)
    with pytest.raises(ValueError, match="2 of 10 rows"):
        class_kmeans(points, torch.arange(10) % 2, 2, num_classes=2)
    with pytest.raises(ValueError, match="overflow"):
        kmeans(torch.full((4, 2), 1e30), 2)


@pytest.mark.parametrize(
    ("labels", "k", "message"),
    [
        ([0, 0, 0, 1], 2, "class 1 has 1 members, fewer than its k = 2"),
        ([0, 0, 0, 0], 1, "class 1 has 0 members"),
        ([0, 0, 1, 2], 1, r"labels must be in \[0, 2\), found 0 to 2"),
        ([0, 0, 1], 1, "labels must be"),
        ([0, 0, 1, 1], [1, 1, 1], "one number for each of the 2 classes"),
        ([0, 0, 1, 1], [1, 0], "at least 1, found 0"),
    ],
)
def test_impossible_requests_name_what_is_wrong(labels: list[int], k: int | list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_kmeans(torch.randn(4, 2), torch.tensor(labels), k, num_classes=2)


def test_impossible_requests_of_kmeans() -> None:
    with pytest.raises(ValueError, match="there are 3, k is 4"):
        kmeans(torch.randn(3, 2), 4)
    with pytest.raises(ValueError, match="restarts"):
        kmeans(torch.randn(3, 2), 2, restarts=0)
    with pytest.raises(ValueError, match="floats"):
        kmeans(torch.zeros(3, 2, dtype=torch.long), 2)
