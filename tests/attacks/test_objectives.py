"""Objectives against naive loops, their invariances, and how they bind to a model and a batch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from corral.attacks.objectives import (
    PublishedMagnet,
    ThroughHead,
    cross_entropy,
    dlr,
    margin,
    prepare,
    published_nearest,
)
from corral.losses import magnet, nearest_own
from corral.models import MLP, Classifier, ClusterHead, LinearHead, PublishedHead, published_scores

seeds = st.integers(0, 10_000)


def logits_and_labels(n=7, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (n,), generator=generator)


def naive_margin(row, label):
    return max(z for place, z in enumerate(row) if place != label) - row[label]


def naive_dlr(row, label):
    ordered = sorted(row, reverse=True)
    return naive_margin(row, label) / (ordered[0] - ordered[2])


def naive_cross_entropy(row, label):
    return math.log(sum(math.exp(z) for z in row)) - row[label]


PAIRS = {
    "margin": (margin, naive_margin),
    "dlr": (dlr, naive_dlr),
    "cross_entropy": (cross_entropy, naive_cross_entropy),
}


@pytest.mark.parametrize(("fast", "naive"), PAIRS.values(), ids=PAIRS)
@given(seed=seeds, classes=st.integers(3, 8))
@settings(max_examples=20, deadline=None)
def test_logit_objectives_match_loops(fast, naive, seed, classes):
    logits, labels = logits_and_labels(classes=classes, seed=seed)
    expected = [naive(row, label) for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert torch.allclose(fast(logits, labels), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("fast", [margin, dlr, cross_entropy])
def test_gradients_are_those_of_finite_differences(fast):
    logits, labels = logits_and_labels()
    assert torch.autograd.gradcheck(lambda z: fast(z, labels), logits.requires_grad_())


@given(seed=seeds, shift=st.floats(-50, 50), scale=st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_dlr_ignores_shift_and_scale(seed, shift, scale):
    logits, labels = logits_and_labels(seed=seed)
    assert torch.allclose(dlr(scale * logits + shift, labels), dlr(logits, labels), rtol=1e-6, atol=1e-9)


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_margin_and_dlr_are_positive_exactly_where_misclassified(seed):
    logits, labels = logits_and_labels(n=20, seed=seed)
    wrong = logits.argmax(1) != labels
    assert torch.equal(margin(logits, labels) > 0, wrong)
    assert torch.equal(dlr(logits, labels) > 0, wrong)


def test_dlr_of_tied_logits_is_finite():
    assert torch.equal(dlr(torch.zeros(1, 4), torch.tensor([2])), torch.zeros(1))


def test_dlr_needs_three_classes():
    with pytest.raises(ValueError, match=r"at least 3 classes, the model has 2; use objective='margin'"):
        dlr(torch.zeros(1, 2), torch.tensor([0]))


def cluster_classifier(seed=0, variance=0.5, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = MLP(12, (8,), 3, rectify=False)
        head = ClusterHead(torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 2]), variance)
    return Classifier(backbone, head, [0.5] * 3, [0.25] * 3).to(dtype).eval()


def batch(n=6, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 2, 2, generator=generator, dtype=dtype), torch.arange(n) % 3


ROWS = torch.tensor([4, 1, 2])  # a part of the batch in another order, as when examples have fallen


@pytest.mark.parametrize("name", ["cross_entropy", "margin", "dlr"])
def test_named_logit_objectives_use_the_rows_own_labels(name):
    model, (x, y) = cluster_classifier(), batch()
    values, logits = prepare(name, model, x, y)(x[ROWS], ROWS)
    assert torch.equal(logits, model(x[ROWS]))
    assert torch.equal(values, PAIRS[name][0](logits, y[ROWS]))


def test_a_function_of_logits_and_labels_is_an_objective():
    model, (x, y) = cluster_classifier(), batch()
    values, logits = prepare(lambda logits, labels: logits[:, 0] * labels, model, x, y)(x[ROWS], ROWS)
    assert torch.equal(values, logits[:, 0] * y[ROWS])


def test_kl_is_zero_on_clean_images_and_positive_elsewhere():
    model, (x, y) = cluster_classifier(), batch()
    objective = prepare("kl", model, x, y)
    assert torch.allclose(objective(x[ROWS], ROWS)[0], torch.zeros(3, dtype=x.dtype), atol=1e-14)
    assert bool((objective(x[ROWS].flip(3), ROWS)[0] > 1e-6).all())


def test_soft_cross_entropy_is_the_entropy_on_clean_images_and_kl_more_elsewhere():
    model, (x, y) = cluster_classifier(), batch()
    objective = prepare("soft_cross_entropy", model, x, y)
    p = model(x[ROWS]).softmax(1)
    entropy = -(p * p.log()).sum(1)
    assert torch.allclose(objective(x[ROWS], ROWS)[0], entropy)
    moved = x[ROWS].flip(3)
    difference = objective(moved, ROWS)[0] - prepare("kl", model, x, y)(moved, ROWS)[0]
    assert torch.allclose(difference, entropy)


@pytest.mark.parametrize("variance", [0.5, 1e-7])
def test_magnet_is_eq_3_without_alpha_and_without_its_hinge(variance):
    # float32: a hinge held open by a large alpha would round the values away.
    model, (x, y) = cluster_classifier(variance=variance, dtype=torch.float32), batch(dtype=torch.float32)
    values, logits = prepare("magnet", model, x, y)(x[ROWS], ROWS)
    head = model.head
    features, centroids = model.features(x[ROWS]).double(), head.centroids.double()
    expected = []
    for f, label in zip(features.tolist(), y[ROWS].tolist(), strict=True):
        scaled = [math.dist(f, mu) ** 2 / (2 * head.variance.item()) for mu in centroids.tolist()]
        own = min(s for s, k in zip(scaled, head.classes.tolist(), strict=True) if k == label)
        rivals = torch.tensor([-s for s, k in zip(scaled, head.classes.tolist(), strict=True) if k != label])
        expected.append(own + float(rivals.double().logsumexp(0)))
    assert torch.allclose(values.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    assert torch.equal(logits, model(x[ROWS]))


def test_magnet_values_are_the_loss_less_alpha():
    model, (x, y) = cluster_classifier(), batch()
    values, _ = prepare("magnet", model, x, y)(x, torch.arange(len(x)))
    head = model.head
    features = model.features(x)
    own = nearest_own(features, y, head.centroids, head.classes)
    loss = magnet(features, own, head.centroids, head.classes, alpha=1e4, variance=head.variance)
    assert torch.allclose(values, loss - 1e4, atol=1e-9)


def test_published_cross_entropy_takes_exponentiated_scores_for_logits_but_decides_by_the_model():
    model, (x, y) = cluster_classifier(), batch()
    values, logits = prepare("published_cross_entropy", model, x, y)(x[ROWS], ROWS)
    head = model.head
    scores = published_scores(model.features(x[ROWS]), head.centroids, head.classes, head.variance, nearest=5)
    expected = [naive_cross_entropy(r, k) for r, k in zip(scores.tolist(), y[ROWS].tolist(), strict=True)]
    assert torch.allclose(values, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(logits, model(x[ROWS]))


def test_published_cross_entropy_keeps_the_ten_nearest_clusters():
    torch_head = ClusterHead(torch.linspace(-3, 3, 24).view(12, 2), torch.arange(12) % 3, 4.0)
    model = Classifier(nn.Flatten(), torch_head, [0.0], [1.0]).eval()
    x, y = torch.tensor([[[[0.2, 0.9]]]]), torch.tensor([1])
    values, _ = prepare("published_cross_entropy", model, x, y)(x, torch.tensor([0]))
    squared = [math.dist(x.flatten().tolist(), mu) ** 2 for mu in torch_head.centroids.tolist()]
    scores = [0.0] * 3
    for place in sorted(range(12), key=squared.__getitem__)[:10]:
        scores[place % 3] += math.exp(-squared[place] / 8)
    assert float(values) == pytest.approx(naive_cross_entropy(scores, 1), rel=1e-5)


@pytest.mark.parametrize(("rule", "nearest"), [("soft", 5), ("nearest", 1), (2, 2), (5, 5)])
def test_the_published_scores_keep_as_many_clusters_as_a_d_nearest_rule_does(rule, nearest):
    model, (x, y) = cluster_classifier(), batch()
    model.head.rule = rule
    assert published_nearest(model.head) == nearest
    values, logits = prepare("published_cross_entropy", model, x, y)(x[ROWS], ROWS)
    through = prepare(ThroughHead(lambda head: PublishedHead(head, nearest=nearest)), model, x, y)(x[ROWS], ROWS)
    assert torch.equal(values, through[0])
    assert torch.equal(logits, through[1])
    assert torch.equal(logits, model(x[ROWS]))


def test_an_objective_through_another_head_needs_a_cluster_head():
    linear = Classifier(nn.Flatten(), LinearHead(12, 3), [0.5] * 3, [1.0] * 3)
    with pytest.raises(ValueError, match="through another head needs a corral Classifier with a ClusterHead"):
        prepare(ThroughHead(lambda head: head), linear, *batch())


@pytest.mark.parametrize(
    ("objective", "alpha"), [("published_magnet", 12.5), (PublishedMagnet(12.5), 12.5), (PublishedMagnet(10.0), 10.0)]
)
def test_published_magnet_is_the_released_loss_of_the_nearest_own_cluster(objective, alpha):
    model, (x, y) = cluster_classifier(), batch()
    values, logits = prepare(objective, model, x, y)(x[ROWS], ROWS)
    head, features = model.head, model.features(x[ROWS]).detach()
    expected = []
    for feature, label in zip(features, y[ROWS].tolist(), strict=True):
        halves = [
            (float(((feature - mu) ** 2).sum()) / (2 * float(head.variance)), int(c))
            for mu, c in zip(head.centroids, head.classes, strict=True)
        ]
        own = math.exp(-min(half for half, c in halves if c == label) - alpha)
        rivals = sum(math.exp(-half) for half, c in halves if c != label)
        expected.append(max(-math.log(own / (rivals + 1e-8) + 1e-8), 0.0))
    assert values.tolist() == pytest.approx(expected, rel=1e-9)
    assert max(expected) > 0
    assert torch.equal(logits, model(x[ROWS]))


def test_unknown_names_are_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown objective 'ce'; known: cross_entropy, margin, dlr, kl, soft_cross"):
        prepare("ce", cluster_classifier(), *batch())


def test_magnet_with_another_alpha_needs_clusters():
    linear = Classifier(nn.Flatten(), LinearHead(12, 3), [0.5] * 3, [1.0] * 3)
    with pytest.raises(ValueError, match="Magnet loss needs a corral Classifier with a ClusterHead"):
        prepare(PublishedMagnet(10.0), linear, *batch())


@pytest.mark.parametrize("name", ["magnet", "published_cross_entropy", "published_magnet"])
@pytest.mark.parametrize("kind", ["plain module", "linear head"])
def test_cluster_objectives_need_clusters(name, kind):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    model = plain if kind == "plain module" else Classifier(nn.Flatten(), LinearHead(12, 3), [0.5] * 3, [1.0] * 3)
    with pytest.raises(ValueError, match=rf"objective '{name}' needs a corral Classifier with a ClusterHead"):
        prepare(name, model, *batch())
