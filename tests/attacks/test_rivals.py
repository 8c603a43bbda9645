"""Objectives on centroids against naive double loops and the closed forms of one centroid a class."""

import math

import pytest
import torch
from torch import nn

from corral.attacks.objectives import value_and_gradient
from corral.attacks.rivals import MatObjective, RivalObjective, rival_objective, rival_order
from corral.models import MLP, Classifier, ClusterHead, LinearHead

VARIANCE, TEMPERATURE = 0.7, 1.3


def problem(counts=(2, 3, 1), seed=0):
    """A float64 classifier on 2×3 pixels, `counts` centroids of its classes, with images and labels."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = MLP(6, (8,), 5)
    classes = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    classes = classes[torch.randperm(len(classes), generator=generator)]
    centroids = torch.randn(len(classes), 5, generator=generator).double()
    head = ClusterHead(centroids, classes, torch.tensor(VARIANCE, dtype=torch.float64), temperature=TEMPERATURE)
    model = Classifier(backbone, head, [0.5], [0.2]).double().eval()
    x = torch.rand(12, 1, 2, 3, generator=generator, dtype=torch.float64)
    return model, x, torch.arange(12) % len(counts)


def every(x):
    return torch.arange(len(x))


def distances(model, x):
    """A list of lists: the squared distance of every image's features to every centroid, coordinate by coordinate."""
    features, centroids = model.features(x).tolist(), model.head.centroids.tolist()
    return [[sum((a - b) ** 2 for a, b in zip(f, mu, strict=True)) for mu in centroids] for f in features]


def test_rivals_come_first_and_nearest_first_own_centroids_last():
    model, x, y = problem()
    order, classes = rival_order(model, x, y).tolist(), model.head.classes.tolist()
    for row, (label, found) in enumerate(zip(y.tolist(), distances(model, x), strict=True)):
        rivals = sorted((d, m) for m, d in enumerate(found) if classes[m] != label)
        assert order[row][: len(rivals)] == [m for _, m in rivals]
        assert all(classes[m] == label for m in order[row][len(rivals) :])


@pytest.mark.parametrize("rank", [0, 1, 3, 20])
def test_rival_objective_is_the_difference_of_squared_distances_of_a_naive_loop(rank):
    model, x, y = problem()
    moved = (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)).clamp(0, 1)
    classes = model.head.classes.tolist()
    with torch.no_grad():
        values, logits = RivalObjective(rank).bind(model, x, y)(moved, every(x))
        assert torch.equal(logits, model(moved))
    expected = []
    for label, clean, now in zip(y.tolist(), distances(model, x), distances(model, moved), strict=True):
        rivals = sorted((d, m) for m, d in enumerate(clean) if classes[m] != label)
        rival = rivals[min(rank, len(rivals) - 1)][1]
        own = min(d for m, d in enumerate(now) if classes[m] == label)
        expected.append((own - now[rival]) / (2 * VARIANCE * TEMPERATURE))
    assert values.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_rows_choose_images_of_the_batch():
    model, x, y = problem()
    for objective in (RivalObjective(1), RivalObjective(0)):
        prepared = objective.bind(model, x, y)
        rows = torch.tensor([7, 2, 2, 11])
        assert torch.allclose(prepared(x[rows], rows)[0], prepared(x, every(x))[0][rows], rtol=1e-12)


def test_with_one_centroid_a_class_it_is_the_difference_of_two_logits():
    model, x, y = problem((1, 1, 1, 1))
    rivals = (y + 1) % 4
    centroid = model.head.index[rivals, 0]
    with torch.no_grad():
        values, logits = rival_objective(model, y, centroid)(x, every(x))
    difference = logits.gather(1, rivals[:, None]) - logits.gather(1, y[:, None])
    assert torch.allclose(values, difference.squeeze(1), rtol=1e-10, atol=1e-10)


class Stretch(nn.Module):
    """Features are the pixels times a factor: their distances to the centroids grow without bound."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x.flatten(1) * self.factor


@pytest.mark.parametrize("factor", [1.0, 1e3, 1e6])
def test_the_gradient_by_the_features_is_the_difference_of_centroids_however_far_the_features(factor):
    centroids = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [4.0, 4.0, 4.0]])
    model = Classifier(Stretch(factor), ClusterHead(centroids, torch.tensor([0, 1, 1]), 0.5), [0.0], [1.0])
    x = torch.rand(5, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(5, dtype=torch.long)
    target = rival_objective(model, y, torch.full((5,), 2))
    _, _, gradient = value_and_gradient(target, x, every(x))
    expected = (centroids[2] - centroids[0]) / 0.5 * factor
    assert torch.allclose(gradient.flatten(1), expected.expand(5, 3), rtol=1e-5)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.0, 2.0), (3.0, 0.0)])
def test_mat_objective_is_the_training_loss_of_a_naive_loop(a, b):
    model, x, y = problem((1, 1, 1))
    moved = (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)).clamp(0, 1)
    with torch.no_grad():
        values, logits = MatObjective(a, b).bind(model, x, y)(moved, every(x))
        assert torch.equal(logits, model(moved))
        clean, now = model.features(x).tolist(), model.features(moved).tolist()

    def cosine(p, q):
        return sum(s * t for s, t in zip(p, q, strict=True)) / math.hypot(*p) / math.hypot(*q)

    centres = {int(c): mu for c, mu in zip(model.head.classes, model.head.centroids.tolist(), strict=True)}
    expected = []
    for label, before, after in zip(y.tolist(), clean, now, strict=True):
        cos = cosine(after, centres[label])
        so = math.sqrt(1 - cos**2) / math.hypot(*after)
        expected.append(1 - cos + a * so + b * (1 - cosine(before, after)))
    assert values.tolist() == pytest.approx(expected, rel=1e-7)


def test_mat_objective_has_finite_gradients_at_the_clean_image_and_at_the_centre_itself():
    centroids = torch.eye(3)
    model = Classifier(Stretch(1.0), ClusterHead(centroids, torch.arange(3), 0.5), [0.0], [1.0])
    x = torch.tensor([[0.8, 0.0, 0.0], [0.3, 0.4, 0.5]]).view(2, 1, 1, 3)
    _, _, gradient = value_and_gradient(MatObjective().bind(model, x, torch.tensor([0, 1])), x, every(x))
    assert bool(torch.isfinite(gradient).all())


def test_what_a_head_does_not_have_is_refused_by_name():
    several, x, y = problem((2, 1, 1))
    with pytest.raises(ValueError, match="one centroid a class, the head has up to 2"):
        MatObjective().bind(several, x, y)
    linear = several.with_head(LinearHead(5, 3).double())
    for objective in (RivalObjective(0), MatObjective()):
        with pytest.raises(ValueError, match="need a corral Classifier with a ClusterHead"):
            objective.bind(linear, x, y)
