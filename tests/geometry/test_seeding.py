"""AFK-MC^2: its two exact limits, its result beside greedy k-means++, and what it refuses."""

import pytest
import torch

from corral.geometry import afk_mc2, kmeans

POINTS = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
DRAWS = 4000


def generator(seed):
    return torch.Generator().manual_seed(seed)


def second_centres(chain):
    """How often each point is the second centre where point 0 is the first, and how often it was."""
    counts, times = torch.zeros(len(POINTS)), 0
    for seed in range(DRAWS):
        first, second = afk_mc2(POINTS, 2, generator=generator(seed), chain=chain).tolist()
        if first == 0:
            counts[second] += 1
            times += 1
    return counts, times


def chi_square(counts, expected):
    kept = expected > 0
    assert bool((counts[~kept] == 0).all())
    return float(((counts - expected)[kept] ** 2 / expected[kept]).sum())


def test_a_chain_of_one_is_its_proposal():
    counts, times = second_centres(1)
    apart = (POINTS[:, 0] - POINTS[0, 0]) ** 2
    proposal = (apart / apart.sum() + 1 / len(POINTS)) / 2
    # Three degrees of freedom: 16.3 is exceeded once in a thousand.
    assert chi_square(counts, times * proposal.float()) < 16.3


def test_a_long_chain_is_k_means_plus_plus():
    counts, times = second_centres(60)
    apart = (POINTS[:, 0] - POINTS[0, 0]) ** 2
    assert chi_square(counts, times * (apart / apart.sum()).float()) < 16.3


def test_the_first_centre_is_uniform():
    counts = torch.zeros(len(POINTS))
    for seed in range(DRAWS):
        counts[afk_mc2(POINTS, 1, generator=generator(seed))] += 1
    assert chi_square(counts, torch.full((len(POINTS),), DRAWS / len(POINTS))) < 16.3


def test_distinct_points_are_drawn_while_there_are_any():
    for seed in range(20):
        rows = afk_mc2(POINTS, 4, generator=generator(seed), chain=400)
        assert sorted(rows.tolist()) == [0, 1, 2, 3]
    same = torch.ones(5, 3)
    assert len(afk_mc2(same, 3, generator=generator(0))) == 3


def test_it_repeats_under_its_seed():
    points = torch.randn(500, 6, generator=generator(1))
    first = afk_mc2(points, 20, generator=generator(5))
    assert torch.equal(first, afk_mc2(points, 20, generator=generator(5)))
    assert not torch.equal(first, afk_mc2(points, 20, generator=generator(6)))


@pytest.mark.parametrize("spherical", [False, True])
def test_k_means_from_it_is_as_good_as_from_k_means_plus_plus(spherical):
    """Well separated groups: the inertia of both is that of the groups themselves, over 5 restarts."""
    centres = 10 * torch.randn(12, 8, generator=generator(2))
    points = centres.repeat_interleave(40, 0) + 0.1 * torch.randn(480, 8, generator=generator(3))
    found = [
        kmeans(points, 12, spherical=spherical, restarts=5, seeding=seeding, generator=generator(0))
        for seeding in ("k-means++", "afk-mc2")
    ]
    assert float(found[1].inertia) == pytest.approx(float(found[0].inertia), rel=1e-6)
    groups = found[1].assignments.view(12, 40)
    assert bool((groups == groups[:, :1]).all())


def test_k_means_from_it_repeats_and_its_assignments_are_of_the_nearest_centroids():
    points = torch.randn(3000, 5, generator=generator(4))
    first = kmeans(points, 15, seeding="afk-mc2", generator=generator(9))
    again = kmeans(points, 15, seeding="afk-mc2", generator=generator(9))
    assert torch.equal(first.centroids, again.centroids)
    assert torch.equal(first.assignments, torch.cdist(points.double(), first.centroids.double()).argmin(1))


@pytest.mark.parametrize(
    ("k", "chain", "words"), [(0, 5, "k must be from 1"), (5, 5, "found 5"), (2, 0, "chain must be at least 1")]
)
def test_what_cannot_be_is_refused(k, chain, words):
    with pytest.raises(ValueError, match=words):
        afk_mc2(POINTS, k, generator=generator(0), chain=chain)


def test_another_seeding_is_refused():
    with pytest.raises(ValueError, match="seeding 'random' is not one of k-means\\+\\+, afk-mc2"):
        kmeans(POINTS, 2, seeding="random")
