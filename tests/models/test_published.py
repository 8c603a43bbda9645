"""The released code's scores: bounded, saturating, and exactly flat where they underflow."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles import class_sums
from torch.nn import functional

from corral.models import ClusterHead, PublishedHead, published_scores


@settings(max_examples=30, deadline=None)
@given(
    clusters=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    nearest=st.integers(1, 14),
    variance=st.floats(0.2, 20),
    seed=st.integers(0, 2**20),
)
def test_scores_are_the_double_loop(clusters, nearest, variance, seed):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.tensor([label for label, count in enumerate(clusters) for _ in range(count)])
    features = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    centroids = torch.randn(len(classes), 3, generator=generator, dtype=torch.float64)
    found = published_scores(features, centroids, classes, variance, nearest=nearest)
    expected = class_sums(features, centroids, classes, variance, nearest)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert (found >= 0).all()
    assert (found <= max(clusters)).all()


def test_scores_and_their_gradient_are_exactly_zero_far_away():
    centroids, classes = torch.eye(4), torch.tensor([0, 0, 1, 1])
    far = torch.full((1, 4), 30.0, requires_grad=True)
    scores = published_scores(far, centroids, classes, 1.0, nearest=3)
    functional.cross_entropy(scores, torch.tensor([0])).backward()
    assert (scores == 0).all()
    assert (far.grad == 0).all()
    other = far.detach().requires_grad_()
    functional.cross_entropy(ClusterHead(centroids, classes, 1.0)(other), torch.tensor([0])).backward()
    assert other.grad.abs().sum() > 0.1


def test_published_head_follows_the_head_it_wraps():
    generator = torch.Generator().manual_seed(0)
    features, centroids = torch.randn(9, 3, generator=generator), torch.randn(5, 3, generator=generator)
    classes = torch.tensor([0, 1, 2, 1, 0])
    head = ClusterHead(centroids, classes, 2.0, temperature=1.5)
    published = PublishedHead(head, nearest=3)
    torch.testing.assert_close(published(features), published_scores(features, centroids, classes, 3.0, nearest=3))
    head.refit(centroids + 1, classes, 1.0)
    expected = published_scores(features, centroids + 1, classes, 1.5, nearest=3)
    torch.testing.assert_close(published(features), expected)
    assert (published.num_classes, published.features_dim) == (3, 3)


@pytest.mark.parametrize("nearest", [0, -1, 1.5, True])
def test_nearest_must_be_a_count(nearest):
    head = ClusterHead(torch.eye(2), torch.tensor([0, 1]), 1.0)
    with pytest.raises(ValueError, match="nearest must be"):
        PublishedHead(head, nearest=nearest)
    with pytest.raises(ValueError, match="nearest must be"):
        published_scores(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), 1.0, nearest=nearest)
