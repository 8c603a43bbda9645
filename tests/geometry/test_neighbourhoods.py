"""The Magnet sampler against brute force and counted draws."""

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corral.geometry import ClusterLosses, NeighbourhoodSampler


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_impostors(centroids: Tensor, classes: Tensor, counts: list[int], seed: int, wanted: int) -> list[int]:
    rivals = [c for c in range(len(classes)) if classes[c] != classes[seed] and counts[c]]
    return sorted(rivals, key=lambda c: float((centroids[c].double() - centroids[seed].double()).norm()))[:wanted]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 60), st.integers(1, 8), st.integers(1, 9), st.integers(0, 999)
)
def test_a_draw_is_what_brute_force_says(
    num_classes: int, per_class: int, rows: int, clusters: int, samples: int, seed: int
) -> None:
    generator = seeded(seed)
    classes = torch.arange(num_classes).repeat_interleave(per_class)
    centroids = torch.randn(len(classes), 3, generator=generator)
    assignments = torch.randint(len(classes), (rows,), generator=generator)
    counts = assignments.bincount(minlength=len(classes)).tolist()
    sampler = NeighbourhoodSampler(
        centroids, classes, assignments, clusters_per_batch=clusters, samples_per_cluster=samples
    )
    batch = sampler.draw(torch.rand(len(classes), generator=generator), generator)
    chosen = batch.clusters.tolist()
    assert chosen[1:] == slow_impostors(centroids, classes, counts, chosen[0], clusters - 1)
    assert torch.equal(batch.clusters[batch.assignments], assignments[batch.rows])
    assert batch.rows.unique().numel() == len(batch.rows)
    drawn = batch.assignments.bincount(minlength=len(chosen)).tolist()
    assert drawn == [min(samples, counts[cluster]) for cluster in chosen]
    assert all(drawn)


def sampler_of(counts: list[int], **options: int) -> NeighbourhoodSampler:
    centroids = torch.arange(len(counts)).double().unsqueeze(1)
    assignments = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return NeighbourhoodSampler(centroids, torch.arange(len(counts)), assignments, **options)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4]),
        ([0.0, 2.0, 0.0, 6.0], [0.0, 0.25, 0.0, 0.75]),
        ([0.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]),
        ([1e300, 1e300, 1e300, 1e300], [0.25, 0.25, 0.25, 0.25]),
        ([1e-320, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]),
    ],
)
def test_seeds_follow_the_losses(losses: list[float], expected: list[float]) -> None:
    sampler, generator = sampler_of([3, 3, 3, 3], clusters_per_batch=1), seeded(1)
    values = torch.tensor(losses, dtype=torch.float64)
    seeds = torch.tensor([int(sampler.draw(values, generator).clusters[0]) for _ in range(1500)])
    observed = seeds.bincount(minlength=4)
    possible = torch.tensor(expected) > 0
    assert observed[~possible].sum() == 0
    shares = torch.tensor(expected, dtype=torch.float64)[possible]
    if len(shares) > 1:
        assert scipy.stats.chisquare(observed[possible].numpy(), (shares * 1500).numpy()).pvalue > 1e-3


def test_empty_clusters_are_never_drawn_even_with_all_the_loss() -> None:
    sampler = sampler_of([0, 4, 0, 4, 0], clusters_per_batch=5)
    for losses in ([9.0, 0.0, 9.0, 0.0, 9.0], [9.0, 1.0, 9.0, 1.0, 9.0]):
        generator = seeded(2)
        batches = [sampler.draw(torch.tensor(losses), generator) for _ in range(60)]
        assert {tuple(batch.clusters.tolist()) for batch in batches} == {(1, 3), (3, 1)}


def test_members_are_drawn_uniformly() -> None:
    sampler, generator = sampler_of([10], samples_per_cluster=3), seeded(3)
    rows = torch.cat([sampler.draw(torch.ones(1), generator).rows for _ in range(800)])
    # Three of ten without replacement: each is in a draw with probability 0.3.
    assert scipy.stats.chisquare(rows.bincount(minlength=10).numpy()).pvalue > 1e-3


def test_same_generator_same_batches() -> None:
    sampler = sampler_of([5, 6, 7], samples_per_cluster=4)
    first, second = seeded(4), seeded(4)
    for _ in range(5):
        one, two = (sampler.draw(torch.ones(3), generator) for generator in (first, second))
        assert torch.equal(one.rows, two.rows)
        assert torch.equal(one.clusters, two.clusters)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_unsound_losses_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 3 are not"):
        sampler_of([2, 2, 2]).draw(torch.tensor([1.0, bad, 1.0]))
    with pytest.raises(ValueError, match=r"must be \(3,\)"):
        sampler_of([2, 2, 2]).draw(torch.ones(4))


@pytest.mark.parametrize(
    ("assignments", "options", "message"),
    [
        ([0, 1, 2], {}, r"\[0, 2\), found 0 to 2"),
        ([], {}, "empty"),
        ([0, 1], {"clusters_per_batch": 0}, "at least 1"),
        ([0, 1], {"samples_per_cluster": 0}, "at least 1"),
    ],
)
def test_impossible_samplers_name_what_is_wrong(assignments: list[int], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeighbourhoodSampler(torch.eye(2), torch.arange(2), torch.tensor(assignments, dtype=torch.long), **options)


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="centroids"):
        NeighbourhoodSampler(torch.eye(2), torch.arange(3), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"must both be \(n,\)"):
        ClusterLosses(2).update(torch.zeros(3, dtype=torch.long), torch.zeros(2))
    with pytest.raises(ValueError, match=r"means must be \(2,\)"):
        ClusterLosses(2).load(ClusterLosses(3).tensors())


def test_losses_are_running_means_and_the_unseen_take_the_mean_of_the_seen() -> None:
    losses = ClusterLosses(4)
    assert losses.values.tolist() == [0, 0, 0, 0]
    losses.update(torch.tensor([0, 0, 2]), torch.tensor([1.0, 3.0, 6.0]))
    assert losses.values.tolist() == [2, 4, 6, 4]
    losses.update(torch.tensor([2, 3]), torch.tensor([0.0, 1.0]))
    assert losses.values.tolist() == pytest.approx([2, 2, 3, 1])
    restored = ClusterLosses(4)
    restored.load({name: tensor.clone() for name, tensor in losses.tensors().items()})
    for state in (losses, restored):
        state.update(torch.tensor([1]), torch.tensor([8.0]))
    assert torch.equal(losses.values, restored.values)
    losses.reset()
    assert losses.values.tolist() == [0, 0, 0, 0]
    assert float(restored.values[1]) == 8


@pytest.mark.parametrize(
    ("per_class", "asked", "drawn"), [(1, 10, 10), (1, 12, 10), (2, 12, 12), (2, 19, 19), (2, 20, 19)]
)
def test_a_batch_is_a_seed_and_clusters_of_other_classes_so_that_20_of_20_cannot_be_drawn(
    per_class: int, asked: int, drawn: int
) -> None:
    """Ten classes, as the critique's: the clusters of the seed's own class are no impostors (Rippel et al. 2016)."""
    classes = torch.arange(10).repeat_interleave(per_class)
    centroids = torch.randn(len(classes), 3, generator=seeded())
    assignments = torch.arange(len(classes)).repeat(5)
    sampler = NeighbourhoodSampler(centroids, classes, assignments, clusters_per_batch=asked, samples_per_cluster=2)
    for seed in range(20):
        batch = sampler.draw(torch.ones(len(classes)), seeded(seed))
        assert len(batch.clusters) == len(batch.clusters.unique()) == drawn
        assert len(batch.rows) == 2 * drawn
        assert int((classes[batch.clusters] == classes[batch.clusters[0]]).sum()) == 1
