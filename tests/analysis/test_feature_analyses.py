"""Analyses of features against hand-made geometry, exact linear answers and slow twins."""

import math

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import silhouette_score
from torch import nn

from corral.analysis import ANALYSES, AnalysedModel
from corral.analysis.compactness import scatter
from corral.analysis.match import ward
from corral.analysis.views import centres_of, view
from corral.attacks.threat import Threat
from corral.data import Images
from corral.errors import CorralError, UsageError
from corral.models import Classifier, ClusterHead, LinearHead


class Flat(nn.Module):
    features_dim = 2

    def forward(self, x):
        return x.flatten(1)


@pytest.fixture
def planar():
    """Makes a subject on images of two pixels that are their own features."""

    def make(points, labels, head, *, eps, train=None):
        model = Classifier(Flat(), head, [0.0], [1.0]).eval()
        images = Images(torch.as_tensor(points).float().view(-1, 1, 1, 2), torch.as_tensor(labels))
        classes = tuple(str(label) for label in range(head.num_classes))
        return AnalysedModel(model, "planar", "digits", classes, Threat("Linf", eps), train or images, images, 0)

    return make


def two_classes(rule="nearest"):
    """Class 0 at (0.2, 0.5), class 1 at (0.8, 0.5): the boundary is x = 0.5."""
    return ClusterHead(torch.tensor([[0.2, 0.5], [0.8, 0.5]]), torch.tensor([0, 1]), 0.01, rule=rule)


def grid(left, right):
    heights = torch.linspace(0.3, 0.7, 10)
    points = [(left, float(h)) for h in heights] + [(right, float(h)) for h in heights]
    return points, [0] * 10 + [1] * 10


def test_minimal_norms_are_the_distances_to_a_straight_boundary(planar):
    points, labels = grid(0.3, 0.85)
    found = ANALYSES["norms"](planar(points, labels, two_classes(), eps=0.05)).numbers
    for name in ("cw", "ddn"):
        assert found[f"{name} broken"] == 1.0
        assert found[name] == pytest.approx((0.2 + 0.35) / 2, rel=2e-3)
        assert 0.2 <= found[f"{name} median"] <= 0.36


def test_images_that_are_wrong_without_attack_have_no_part_in_the_norms(planar):
    points, labels = grid(0.3, 0.85)
    labels[0] = 1
    subject = planar(points, labels, two_classes(), eps=0.05)
    found = ANALYSES["norms"](subject).numbers
    assert found["ddn"] == pytest.approx((9 * 0.2 + 10 * 0.35) / 19, rel=2e-3)
    assert found["ddn broken"] == 1.0
    assert not bool(view(subject, "ddn").broken[0])


def test_an_attack_across_the_boundary_is_seen_in_every_view(planar):
    points, labels = grid(0.45, 0.55)
    subject = planar(points, labels, two_classes(), eps=0.1)
    assert view(subject, "clean").predicted.tolist() == labels
    attacked = view(subject, "pgd")
    assert attacked.predicted.tolist() == [1 - label for label in labels]
    assert bool(attacked.broken.all())
    # The linear objective sends every image to the corner of its ball.
    torch.testing.assert_close(attacked.features[:10, 0], torch.full((10,), 0.55))
    # Nothing is attacked twice for two analyses.
    assert view(subject, "pgd") is attacked


def test_matching_is_nearness_to_a_cluster_that_is_decided_alike(planar):
    # Clean: two tight groups, each wholly of one prediction. An attack of 0.1 takes the left one across the boundary,
    # where it is still nearest to its own cluster: nothing matches there any more.
    points, labels = grid(0.45, 0.9)
    found = ANALYSES["match"](planar(points, labels, two_classes(), eps=0.1)).numbers
    assert found["clean"] == 1.0
    assert found["clusters"] == 2
    assert found["pgd"] == 0.5
    # DDN stops at the boundary, all at 0.5: nearest to the left cluster's mean (0.45), so the left group is decided as
    # 1 where its neighbours are 0, the right one as 0 where its neighbours are 0.
    assert found["broken ddn"] == 20
    assert found["ddn"] == 0.5


def test_ward_is_that_of_another_library():
    points = torch.randn(60, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = ward(points, 7)
    other = fcluster(linkage(points.numpy(), method="ward"), 7, criterion="maxclust")
    pairs = {(int(a), int(b)) for a, b in zip(ours, other, strict=True)}
    assert len(pairs) == len(set(ours.tolist())) == len(set(other.tolist()))


def test_cosines_are_angles_at_the_mean_of_the_centres(planar):
    # Seen from (0.5, 0.5) the centres lie due left and right.
    points, labels = [(0.3, 0.5), (0.3, 0.7), (0.7, 0.5), (0.7, 0.3)], [0, 0, 1, 1]
    found = ANALYSES["cosine"](planar(points, labels, two_classes(), eps=0.01))
    diagonal = math.sqrt(0.5)
    assert found.numbers["clean"] == pytest.approx((2 + 2 * diagonal) / 4, rel=1e-5)
    assert found.numbers["clean sd"] == pytest.approx((1 - diagonal) / 2, rel=1e-5)
    assert found.series["clean by class"] == pytest.approx(((1 + diagonal) / 2,) * 2, rel=1e-5)
    assert found.series["clean sd by class"] == pytest.approx(((1 - diagonal) / 2,) * 2, rel=1e-5)
    # Both classes have one mean: nothing over classes, all of the deviation within them.
    assert found.numbers["clean of classes"] == pytest.approx((1 + diagonal) / 2, rel=1e-5)
    assert found.numbers["clean sd of classes"] == pytest.approx(0.0, abs=1e-6)


def test_the_deviation_of_cosines_over_classes_is_that_of_the_classes_means(planar):
    """MAT's: a class counts as one number however many images are predicted as it, and an empty one not at all."""
    diagonal = math.sqrt(0.5)
    # Three images straight at the left centre, one at 45 degrees to the right one; none is predicted as class 2, whose
    # centre does not move the mean of all.
    points, labels = [(0.3, 0.5), (0.2, 0.5), (0.1, 0.5), (0.7, 0.7)], [0, 0, 0, 1]
    head = ClusterHead(torch.tensor([[0.3, 0.5], [0.7, 0.5], [0.5, 0.5]]), torch.arange(3), 0.01, rule="nearest")
    found = ANALYSES["cosine"](planar(points, labels, head, eps=0.01))
    assert found.series["clean by class"] == pytest.approx((1.0, diagonal, 0.0), rel=1e-5)
    assert found.numbers["clean of classes"] == pytest.approx((1 + diagonal) / 2, rel=1e-5)
    assert found.numbers["clean sd of classes"] == pytest.approx((1 - diagonal) / 2, rel=1e-5)
    assert found.numbers["clean"] == pytest.approx((3 + diagonal) / 4, rel=1e-5)
    assert found.numbers["clean sd"] == pytest.approx((1 - diagonal) * math.sqrt(3) / 4, rel=1e-5)
    assert {"pgd of classes", "pgd sd of classes"} <= found.numbers.keys()


def test_a_linear_head_has_its_classes_mean_features_for_centres(planar):
    points, labels = [(0.2, 0.4), (0.2, 0.6), (0.8, 0.5), (0.8, 0.5)], [0, 0, 1, 1]
    head = LinearHead(2, 2)
    subject = planar(points, labels, head, eps=0.01)
    centres, classes = centres_of(subject)
    torch.testing.assert_close(centres, torch.tensor([[0.2, 0.5], [0.8, 0.5]]))
    assert classes.tolist() == [0, 1]


def test_silhouette_and_scatter_against_their_definitions(planar):
    generator = torch.Generator().manual_seed(3)
    points = 0.2 + 0.6 * torch.rand(24, 2, generator=generator)
    labels = (points[:, 0] + 0.1 * torch.randn(24, generator=generator) > 0.5).long()
    found = ANALYSES["compactness"](planar(points, labels, two_classes(), eps=0.02)).numbers
    widths = []
    for i, (point, label) in enumerate(zip(points, labels, strict=True)):
        means = {
            other: float(np.mean([(point - q).norm() for j, q in enumerate(points) if labels[j] == other and j != i]))
            for other in (0, 1)
        }
        a, b = means[int(label)], means[1 - int(label)]
        widths.append((b - a) / max(a, b))
    assert found["silhouette clean"] == pytest.approx(float(np.mean(widths)), rel=1e-4)
    # The total variance is that within classes and that between them.
    total = float((points.double() - points.double().mean(0)).square().sum() / 24)
    assert found["within clean"] + found["between clean"] == pytest.approx(total, rel=1e-5)
    assert found["ratio clean"] == pytest.approx(found["within clean"] / found["between clean"])


def test_scatter_of_two_points_a_class():
    features = torch.tensor([[0.0], [2.0], [10.0], [12.0]], dtype=torch.float64)
    assert scatter(features, torch.tensor([0, 0, 1, 1])) == (1.0, 25.0)


def test_one_predicted_class_leaves_its_silhouette_out(planar):
    points, labels = grid(0.1, 0.2)
    found = ANALYSES["compactness"](planar(points, labels, two_classes(), eps=0.01)).numbers
    assert "silhouette clean" in found
    assert "silhouette predicted clean" not in found


def test_the_embedding_has_every_image_twice_and_keeps_far_groups_apart(planar):
    points, labels = grid(0.1, 0.9)
    subject = planar(points, labels, two_classes(), eps=0.01)
    found = ANALYSES["embedding"](subject)
    assert found.numbers["images"] == 20
    assert {len(values) for values in found.series.values()} == {40}
    assert found.series["attacked"] == (0.0,) * 20 + (1.0,) * 20
    assert found.series["label"] == tuple(map(float, labels * 2))
    placed = np.stack([found.series["first"], found.series["second"]], 1)
    kinds = np.array(labels * 2)
    middles = [placed[kinds == label].mean(0) for label in (0, 1)]
    nearest = [int(np.argmin([np.linalg.norm(point - middle) for middle in middles])) for point in placed]
    assert nearest == kinds.tolist()
    subject.views.clear()
    assert ANALYSES["embedding"](subject).series == found.series


def test_a_collapsed_network_has_no_embedding(planar):
    subject = planar([(0.3, 0.5)] * 20, [0, 1] * 10, two_classes(), eps=0.0)
    with pytest.raises(CorralError, match="all features are equal"):
        ANALYSES["embedding"](subject)


def fan(counts, seed=0):
    """Points in tight bundles around directions of the plane, so many each."""
    generator = torch.Generator().manual_seed(seed)
    angles = torch.cat([torch.full((count,), 0.15 + 0.3 * place) for place, count in enumerate(counts)])
    angles = angles + 0.01 * torch.randn(len(angles), generator=generator)
    return 0.8 * torch.stack([angles.cos(), angles.sin()], 1), angles


def test_silhouettes_are_scikit_learn_s_and_find_the_bundles(planar):
    points, _ = fan([8] * 5)
    found = ANALYSES["silhouettes"](planar(points, [0] * 20 + [1] * 20, two_classes(), eps=0.05))
    assert found.numbers["best"] == 5
    assert found.n == 40
    assert found.series["k"] == (5, 10, 15, 20, 25, 30)
    assert found.numbers["width"] == max(found.series["width"]) == found.numbers["k 5"]
    expected = silhouette_score(points.numpy(), np.repeat(np.arange(5), 8), metric="cosine")
    assert found.numbers["width"] == pytest.approx(expected, abs=1e-6)


def test_a_push_toward_the_neighbour_turns_features_toward_its_bundle(planar):
    """Five bundles on an arc, the first two of class 0: pushed along the arc, the second's cross the boundary."""
    points, angles = fan([8] * 5)
    labels = (angles > 0.6).long()
    weight = torch.tensor([[math.sin(0.6), -math.cos(0.6)], [0.0, 0.0]])
    head = LinearHead(2, 2)
    with torch.no_grad():
        head.linear.weight.copy_(-20 * (weight - weight.flip(0)))
        head.linear.bias.zero_()
        decided = head(points).argmax(1)
        if not torch.equal(decided, labels):
            head.linear.weight.neg_()
    subject = planar(points, labels, head, eps=0.15)
    found = ANALYSES["cluster_attack"](subject).numbers
    assert (found["clusters"], found["right"]) == (5, 40)
    # Of a linear head, the box holds another decision where |z·n| is below eps ||n||_1; five steps of eps / 4 from
    # the farthest start end a quarter of eps beyond the image.
    normal = (head.linear.weight[0] - head.linear.weight[1]).detach()
    ways = (points @ normal).abs() / normal.abs().sum()
    assert (ways < 0.15 / 4).double().mean() <= found["labelled success"] <= (ways < 0.15).double().mean()
    assert found["labelled success"] > 0.3
    assert found["pursuit success"] > found["noise success"]
    assert found["pursuit decrease"] > found["noise decrease"]
    assert all(
        0 <= found[f"{name} success"] <= found["labelled success"] for name in ("noise", "pursuit", "away", "both")
    )


def test_pursuit_of_features_without_direction_is_one_line(planar):
    points, labels = grid(0.3, 0.85)
    with pytest.raises(CorralError, match=r"features of training images are zero, .*: analyse another run"):
        ANALYSES["cluster_attack"](planar([(0.0, 0.0), *points[1:]], labels, two_classes(), eps=0.05))
    with pytest.raises(UsageError, match="5 training images are too few for 5 clusters"):
        ANALYSES["silhouettes"](planar(points[:5], labels[:5], two_classes(), eps=0.05))


@pytest.mark.parametrize("name", ["silhouettes", "cluster_attack"])
def test_features_that_no_clusters_can_be_found_in_are_one_line(planar, name, monkeypatch):
    points, labels = fan([8] * 5)[0], [0] * 20 + [1] * 20
    wild = {
        "the features are not finite or too large": [torch.nan, torch.inf, 1e30],
        "all images have the same features": [0.5],
    }
    for words, values in wild.items():
        for value in values:
            monkeypatch.setattr(
                "corral.analysis.silhouettes.extract_features",
                lambda model, images, value=value: torch.full((40, 2), value),
            )
            with pytest.raises(CorralError, match=words):
                ANALYSES[name](planar(points, labels, two_classes(), eps=0.05))
    four = torch.eye(4)[torch.arange(40) % 4]
    monkeypatch.setattr("corral.analysis.silhouettes.extract_features", lambda model, images: four)
    with pytest.raises(CorralError, match="the points have fewer directions than 5 clusters"):
        ANALYSES[name](planar(points, labels, two_classes(), eps=0.05))
