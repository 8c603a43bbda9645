"""Silhouette widths against scikit-learn's and a closed form; the number of clusters that they choose."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples

from corral.geometry import choose_clusters, cosine_silhouette


def generator(seed):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(3, 40),
    dimension=st.integers(2, 6),
    clusters=st.integers(2, 6),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_widths_are_scikit_learn_s(count, dimension, clusters, seed, scale):
    points = scale * torch.randn(count, dimension, generator=generator(seed), dtype=torch.float64)
    assignments = torch.randint(clusters, (count,), generator=generator(seed + 1)) * 3
    assignments[:2] = torch.tensor([0, 3])
    found = cosine_silhouette(points, assignments)
    if 2 <= len(torch.unique(assignments)) < count:
        expected = torch.from_numpy(silhouette_samples(points.numpy(), assignments.numpy(), metric="cosine"))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert bool((found.abs() <= 1).all())


def test_opposite_pairs_have_the_width_of_their_angles():
    """Two pairs, 90 degrees apart inside and 180 and 90 across: a = 1, b = (2 + 1) / 2."""
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    found = cosine_silhouette(points, torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(found, torch.full((4,), 0.5 / 1.5, dtype=torch.float64))


def test_a_point_alone_has_width_0_and_equal_points_too():
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert cosine_silhouette(points, torch.tensor([0, 0, 1])).tolist() == [1.0, 1.0, 0.0]
    assert cosine_silhouette(torch.ones(4, 2), torch.tensor([0, 0, 1, 1])).abs().max() < 1e-6


@pytest.mark.parametrize("groups", [3, 7])
def test_the_number_of_separated_groups_is_chosen(groups):
    centres = torch.linalg.qr(torch.randn(8, 8, generator=generator(0)))[0][:groups]
    points = centres.repeat_interleave(30, 0) + 0.05 * torch.randn(30 * groups, 8, generator=generator(1))
    found = choose_clusters(points, [2, 3, 5, 7, 9, 12], restarts=4, generator=generator(2))
    assert found.k == groups
    assert set(found.widths) == {2, 3, 5, 7, 9, 12}
    assert found.widths[groups] == max(found.widths.values())


def test_candidates_with_more_clusters_than_directions_are_left_out():
    points = torch.eye(4)[torch.arange(20) % 4] * torch.arange(1.0, 21).unsqueeze(1)
    found = choose_clusters(points, [2, 4, 5, 9], restarts=4, generator=generator(0))
    assert (found.k, set(found.widths)) == (4, {2, 4})
    with pytest.raises(ValueError, match="the points have fewer directions than 5 clusters: ask for fewer clusters"):
        choose_clusters(points, [9, 5], generator=generator(0))


@pytest.mark.parametrize("candidates", [[], [1, 5], [5, 20]])
def test_impossible_candidates_are_refused(candidates):
    with pytest.raises(ValueError, match="candidates must be numbers of clusters from 2 to 19"):
        choose_clusters(torch.randn(20, 3, generator=generator(0)), candidates)


@pytest.mark.parametrize(
    ("points", "assignments", "words"),
    [
        (torch.zeros(3, 2), torch.tensor([0, 1, 1]), "a zero vector has no direction"),
        (torch.ones(3, 2), torch.tensor([1, 1, 1]), "at least two clusters"),
        (torch.ones(3, 2), torch.tensor([0, 1]), "must fit"),
        (torch.tensor([[1.0, 0.0], [0.0, torch.nan]]), torch.tensor([0, 1]), "found NaN or infinity in 1 of 2"),
        (torch.tensor([[1.0, 0.0], [0.0, torch.inf]]), torch.tensor([0, 1]), "found NaN or infinity in 1 of 2"),
    ],
)
def test_what_has_no_width_is_refused(points, assignments, words):
    with pytest.raises(ValueError, match=words):
        cosine_silhouette(points, assignments)
