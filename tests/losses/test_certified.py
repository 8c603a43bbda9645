"""The certified loss: an upper bound over the ball, zero radius, closed form with one cluster, agreement with radii."""

import pytest
import torch
import torch.nn.functional as F

from corral.certify import nearest_radius, soft_radius
from corral.geometry import class_index, class_scores, cluster_scores
from corral.losses import annealed_cross_entropy, certified_scores


def problem(clusters, seed=0, n=40, classes=4, dimension=6):
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.arange(classes).repeat_interleave(clusters)
    centroids = torch.randn(len(kinds), dimension, generator=generator, dtype=torch.float64)
    features = torch.randn(n, dimension, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (n,), generator=generator)
    return features, labels, centroids, kinds, 0.3


@pytest.mark.parametrize("rule", ["soft", "nearest"])
@pytest.mark.parametrize("clusters", [1, 3])
def test_without_a_radius_they_are_the_heads_scores(clusters, rule):
    features, labels, centroids, classes, variance = problem(clusters)
    found = certified_scores(features, labels, centroids, classes, variance, radius=0.0, rule=rule)
    torch.testing.assert_close(
        found, class_scores(cluster_scores(features, centroids, variance), class_index(classes), rule)
    )


def test_with_one_cluster_every_rival_gains_its_distance_times_the_radius():
    features, labels, centroids, classes, variance = problem(1)
    found = certified_scores(features, labels, centroids, classes, variance, radius=0.7)
    plain = certified_scores(features, labels, centroids, classes, variance, radius=0.0)
    for i, label in enumerate(labels.tolist()):
        for c in range(4):
            gain = 0.7 * float((centroids[c] - centroids[label]).norm()) / variance
            assert float(found[i, c] - plain[i, c]) == pytest.approx(gain, abs=1e-9)


@pytest.mark.parametrize("rule", ["soft", "nearest"])
@pytest.mark.parametrize("clusters", [1, 2, 3])
def test_no_feature_in_the_ball_has_a_larger_loss(clusters, rule):
    features, labels, centroids, classes, variance = problem(clusters, seed=clusters)
    radius, index = 0.4, class_index(classes)
    bound = F.cross_entropy(
        certified_scores(features, labels, centroids, classes, variance, radius=radius, rule=rule, index=index),
        labels,
        reduction="none",
    )
    moves = torch.randn(200, *features.shape, dtype=torch.float64)
    moves[:50] = (centroids[torch.randint(len(centroids), (50, len(features)))] - features) * torch.rand(50, 1, 1)
    climb = torch.zeros_like(features, requires_grad=True)
    for _ in range(30):  # and the worst one that ascent finds
        logits = class_scores(cluster_scores(features + climb, centroids, variance), index, rule)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), climb)
        step = climb.detach() + 0.2 * F.normalize(gradient)
        climb = (step * (radius / step.norm(dim=1, keepdim=True)).clamp_max(1)).requires_grad_()
    moves = torch.cat([moves, climb.detach().unsqueeze(0)])
    moves *= (radius / moves.norm(dim=2, keepdim=True)).clamp_max(1)
    for move in moves:
        logits = class_scores(cluster_scores(features + move, centroids, variance), index, rule)
        assert bool((F.cross_entropy(logits, labels, reduction="none") <= bound + 1e-9).all())


@pytest.mark.parametrize(("rule", "clusters"), [("soft", 1), ("soft", 3), ("nearest", 1)])
def test_the_label_stays_on_top_exactly_within_the_certified_radius(rule, clusters):
    features, _, centroids, classes, variance = problem(clusters, seed=7)
    plain = class_scores(cluster_scores(features, centroids, variance), class_index(classes), rule)
    labels = plain.argmax(1)
    if rule == "soft":
        radii = soft_radius(features, centroids, classes, variance)
    else:
        radii = nearest_radius(features, centroids, classes)
    # With several clusters the certificate compares rivals one by one, as the largest score does.
    for radius in (0.05, 0.2, 0.5, 1.0):
        scores = certified_scores(features, labels, centroids, classes, variance, radius=radius, rule=rule)
        assert torch.equal(scores.argmax(1) == labels, radii > radius)


def test_gradients_are_finite_on_a_centroid_and_checked_by_differences():
    features, labels, centroids, classes, variance = problem(2, n=6)
    labels[0], features[0] = 0, centroids[0]
    for rule in ("soft", "nearest"):
        inputs = (features.clone().requires_grad_(), centroids.clone().requires_grad_())
        certified_scores(inputs[0], labels, inputs[1], classes, variance, radius=0.5, rule=rule).sum().backward()
        assert all(bool(torch.isfinite(value.grad).all()) for value in inputs)
    features = features[1:].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: certified_scores(z, labels[1:], centroids, classes, variance, radius=0.5), (features,)
    )


def test_annealing_is_a_power_of_the_missing_probability():
    logits = torch.randn(20, 5, dtype=torch.float64)
    labels = torch.randint(5, (20,))
    p = logits.softmax(1)[torch.arange(20), labels]
    torch.testing.assert_close(annealed_cross_entropy(logits, labels, annealing=2.0), -((1 - p) ** 2) * p.log())
    plain = F.cross_entropy(logits, labels, reduction="none")
    assert torch.equal(annealed_cross_entropy(logits, labels), plain)
    sure = torch.tensor([[1e3, 0.0]], requires_grad=True)
    annealed_cross_entropy(sure, torch.tensor([0]), annealing=0.5).sum().backward()
    assert bool(torch.isfinite(sure.grad).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: certified_scores(*problem(1), radius=-0.1), "radius must be at least 0"),
        (lambda: certified_scores(*problem(1), radius=0.1, rule="hard"), "rule must be 'soft' or 'nearest'"),
        (lambda: annealed_cross_entropy(torch.zeros(1, 2), torch.zeros(1).long(), annealing=-1.0), "at least 0"),
    ],
)
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
