"""Radii of the nearest and the soft rule: exact answers, a quadratic-programming solver, and attacks from inside."""

import math
import os
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from tests.oracles import squared_distances

from corral.certify import (
    head_radius,
    linear_radius,
    nearest_radius,
    pairwise_margin,
    published_radius_unsound,
    soft_radius,
)
from corral.errors import UsageError
from corral.models import ClusterHead, LinearHead

# Random configurations for each of the soundness tests; `make soundness` asks for 35,000.
CONFIGURATIONS = int(os.environ.get("CORRAL_CONFIGURATIONS", "80"))
TROUBLES = ["none", "ties", "duplicates", "close centroids", "far"]
SHAPES = {
    "seed": st.integers(0, 2**31),
    "clusters": st.integers(1, 6),
    "classes": st.integers(2, 6),
    "dimension": st.integers(1, 12),
    "scale": st.sampled_from([1e-4, 1.0, 1e4]),
    "trouble": st.sampled_from(TROUBLES),
}


def nearest_class(points, centroids, owners):
    return owners[squared_distances(points, centroids).argmin(-1)]


def soft_class(points, centroids, owners, variance):
    exponents = -squared_distances(points, centroids) / (2 * variance)
    classes = int(owners.max()) + 1
    return torch.stack([exponents[..., owners == label].logsumexp(-1) for label in range(classes)], -1).argmax(-1)


def directions_from(features, centroids, owners, decided, seed):
    """(N, D, d) unit vectors: random, and along every difference between a rival and an own centroid."""
    generator = torch.Generator().manual_seed(seed % 2**31 + 1)
    random = torch.randn(len(features), 24, features.shape[1], generator=generator, dtype=torch.float64)
    differences = (centroids.unsqueeze(0) - centroids.unsqueeze(1)).flatten(0, 1)
    differences = differences[differences.norm(dim=1) > 0]
    found = torch.cat([random, differences.expand(len(features), -1, -1)], 1)
    return found / found.norm(dim=2, keepdim=True).clamp_min(1e-300)


def broken(features, moved, radii, wrong):
    """The (row, place) of every moved point of another class that is within its radius, in exact arithmetic.

    Adding a move to a feature rounds: near a tie, where the move is shorter than the feature's last places, the point
    that float64 has in the place of one inside the radius may lie outside of it.
    """
    found = []
    for row, *place in wrong.nonzero().tolist():
        start, end = features[row].tolist(), moved[(row, *place)].tolist()
        apart = sum((Fraction(b) - Fraction(a)) ** 2 for a, b in zip(start, end, strict=True))
        if apart <= Fraction(radii[row].item()) ** 2:
            found.append((row, *place))
    return found


def margin_climb(features, radii, decided, score, steps=8):
    """(N, d) points within the radii, found by projected ascent on the best rival's score less the own one."""
    delta = torch.zeros_like(features)
    for _ in range(steps):
        delta = delta.detach().requires_grad_(True)
        scores = score(features + delta)
        own = scores.gather(1, decided.unsqueeze(1)).squeeze(1)
        rival = scores.scatter(1, decided.unsqueeze(1), -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad((rival - own).sum(), delta)
        unit = gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-300)
        delta = delta.detach() + 0.5 * radii.unsqueeze(1) * unit
        delta = delta * (radii / delta.norm(dim=1).clamp_min(1e-300)).clamp(max=1).unsqueeze(1)
    return features + delta


@pytest.mark.parametrize("method", ["exact", "fast"])
@given(**SHAPES)
@settings(max_examples=CONFIGURATIONS, deadline=None)
def test_no_point_within_a_nearest_radius_changes_class(method, configuration, **shape):
    features, centroids, owners = configuration(**_order(shape))
    radii = nearest_radius(features, centroids, owners, method=method)
    decided = nearest_class(features, centroids, owners)
    where = directions_from(features, centroids, owners, decided, shape["seed"])
    for share in (0.5, 1 - 1e-12):
        moved = features.unsqueeze(1) + share * radii[:, None, None] * where
        wrong = (nearest_class(moved, centroids, owners) != decided.unsqueeze(1)) & (radii > 0).unsqueeze(1)
        assert broken(features, moved, radii, wrong) == []

    def score(points):
        distances = squared_distances(points, centroids)
        return torch.stack([-distances[:, owners == label].amin(1) for label in range(int(owners.max()) + 1)], 1)

    climbed = margin_climb(features, radii * (1 - 1e-12), decided, score)
    wrong = (nearest_class(climbed, centroids, owners) != decided) & (radii > 0)
    assert broken(features, climbed, radii, wrong) == []


@given(**SHAPES, log_variance=st.floats(-4, 4))
@settings(max_examples=CONFIGURATIONS, deadline=None)
def test_no_point_within_a_soft_radius_changes_class(configuration, log_variance, **shape):
    features, centroids, owners = configuration(**_order(shape))
    variance = math.exp(log_variance) * shape["scale"] ** 2
    radii = soft_radius(features, centroids, owners, variance)
    decided = soft_class(features, centroids, owners, variance)
    where = directions_from(features, centroids, owners, decided, shape["seed"])
    for share in (0.5, 1 - 1e-12):
        moved = features.unsqueeze(1) + share * radii[:, None, None] * where
        wrong = (soft_class(moved, centroids, owners, variance) != decided.unsqueeze(1)) & (radii > 0).unsqueeze(1)
        assert broken(features, moved, radii, wrong) == []

    def score(points):
        exponents = -squared_distances(points, centroids) / (2 * variance)
        return torch.stack([exponents[:, owners == label].logsumexp(1) for label in range(int(owners.max()) + 1)], 1)

    climbed = margin_climb(features, radii * (1 - 1e-12), decided, score)
    wrong = (soft_class(climbed, centroids, owners, variance) != decided) & (radii > 0)
    assert broken(features, climbed, radii, wrong) == []


@pytest.mark.parametrize(("seed", "scale"), [(72744, 1e-4), (1027417, 1.0)])
def test_a_radius_at_a_near_tie_is_no_longer_than_the_exact_distance(configuration, seed, scale):
    """Two of 70,000 configurations: float64 carries the point at 1 - 1e-12 of the radius onto the bisector itself."""
    features, centroids, owners = configuration(seed, 1, 2, 1, scale=scale, trouble="ties")
    middle = (Fraction(centroids[0].item()) + Fraction(centroids[1].item())) / 2
    for method in ("exact", "fast"):
        radii = nearest_radius(features, centroids, owners, method=method)
        for feature, radius in zip(features[:, 0].tolist(), radii.tolist(), strict=True):
            assert Fraction(radius) <= abs(Fraction(feature) - middle)
            assert radius >= float(abs(Fraction(feature) - middle)) * (1 - 1e-6) - 1e-14 * scale


def _order(shape):
    return {key: shape[key] for key in ("seed", "clusters", "classes", "dimension", "scale", "trouble")}


@given(
    seed=st.integers(0, 2**31),
    classes=st.integers(2, 6),
    dimension=st.integers(1, 12),
    scale=st.sampled_from([1e-3, 1e3]),
)
@example(seed=375802, classes=5, dimension=1, scale=1e-3)  # two centroids nearer than a thousandth of their extent
@settings(max_examples=60, deadline=None)
def test_with_one_cluster_a_class_every_radius_is_theorem_1_over_all_rivals(
    configuration, seed, classes, dimension, scale
):
    """To 1e-8, lowered by what rounding could add, more where two centroids nearly coincide; never above it."""
    features, centroids, owners = configuration(seed, 1, classes, dimension, scale=scale)
    exact = [[Fraction(value) for value in row] for row in centroids.tolist()]
    expected = []
    for x, own in zip(features.tolist(), squared_distances(features, centroids).argmin(1).tolist(), strict=True):
        gaps = [
            (sum((b - a) * (a + b - 2 * Fraction(z)) for z, a, b in zip(x, exact[own], exact[j], strict=True)), j)
            for j in range(classes)
            if j != own
        ]
        expected.append(min(float(gap) / (2 * math.dist(exact[own], exact[j])) for gap, j in gaps))
    expected = torch.tensor(expected, dtype=torch.float64)
    extent = float((torch.cat([features, centroids]) - centroids.mean(0)).norm(dim=1).max())
    closest = float(torch.pdist(centroids.double()).min())
    unit = 20 * (dimension + 17) * 2.0**-53
    room = (1e-8 + unit * (extent / closest) ** 2) * expected + 1e-10 * scale + unit * extent**2 / closest
    for radii in (
        nearest_radius(features, centroids, owners),
        nearest_radius(features, centroids, owners, method="fast"),
        soft_radius(features, centroids, owners, scale**2),
    ):
        assert bool((radii >= expected - room).all())
        assert bool((radii <= expected * (1 + 1e-14)).all())


def least_distance(normals, heights):
    """The shortest x with normals·x >= heights, by Lawson and Hanson's least distance programming (1974, ch. 23)."""
    stacked = np.vstack([normals.T, heights])
    target = np.zeros(len(stacked))
    target[-1] = 1.0
    weights, _ = nnls(stacked, target)
    residual = stacked @ weights - target
    return math.inf if abs(residual[-1]) < 1e-14 else float(np.linalg.norm(-residual[:-1] / residual[-1]))


@given(seed=st.integers(0, 2**31), clusters=st.integers(2, 6), classes=st.integers(2, 4), dimension=st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_the_exact_radius_is_a_quadratic_program_s(configuration, seed, clusters, classes, dimension):
    """One generic solver call for each feature and rival centroid: the projection onto its half-spaces."""
    features, centroids, owners = configuration(seed, clusters, classes, dimension, count=5)
    found = nearest_radius(features, centroids, owners)
    decided = nearest_class(features, centroids, owners)
    for feature, label, radius in zip(features.numpy(), decided.tolist(), found.tolist(), strict=True):
        mine, others = centroids[owners == label].numpy(), centroids[owners != label].numpy()
        # |z + x - rival|^2 <= |z + x - mu_i|^2 for all own i is linear in the move x.
        best = min(
            least_distance(rival - mine, (((feature - rival) ** 2).sum() - ((feature - mine) ** 2).sum(1)) / 2)
            for rival in others
        )
        assert radius <= best * (1 + 1e-9) + 1e-12
        assert radius == pytest.approx(best, rel=1e-6, abs=1e-9)


def test_the_exact_radius_is_reached_where_coordinate_ascent_creeps(configuration):
    """Of 6 clusters, two nearly parallel half-spaces: the decision changes at 0.60945, seen on 400,000 directions."""
    features, centroids, owners = configuration(3, 6, 2, 2)
    radii = nearest_radius(features, centroids, owners)
    row = int((radii - 0.6094253830845).abs().argmin())
    angles = torch.linspace(0, 2 * math.pi, 400_001, dtype=torch.float64)
    around = torch.stack([angles.cos(), angles.sin()], 1)
    label = nearest_class(features[row], centroids, owners)
    shares = [0.999999, 1.0001]
    changed = [
        bool((nearest_class(features[row] + share * radii[row] * around, centroids, owners) != label).any())
        for share in shares
    ]
    assert changed == [False, True]


@given(**SHAPES)
@example(seed=3, clusters=6, classes=2, dimension=2, scale=1e-4, trouble="none")  # the ascent creeps
@settings(max_examples=60, deadline=None)
def test_exact_is_never_below_fast_and_both_never_above_the_bisector_of_the_nearest_pair(configuration, **shape):
    features, centroids, owners = configuration(**_order(shape))
    exact, fast = (nearest_radius(features, centroids, owners, method=method) for method in ("exact", "fast"))
    slack = 1e-9 * shape["scale"] * (1e4 if shape["trouble"] == "far" else 1)
    assert bool((exact >= fast - slack).all())
    assert bool((exact >= 0).all() & (fast >= 0).all())
    assert bool(torch.isfinite(exact).all() & torch.isfinite(fast).all())


def test_the_counterexample_to_the_papers_shortcut():
    centroids = torch.tensor([[-1.0, 0.0], [0.0, 1.5], [1.55, 0.0]])
    z, owners = torch.zeros(1, 2), torch.arange(3)
    claimed, sound = published_radius_unsound(z, centroids, owners), nearest_radius(z, centroids, owners)
    assert float(claimed) == pytest.approx(1.25 / (2 * math.sqrt(3.25)), rel=1e-6)
    assert float(sound) == pytest.approx(1.4025 / 5.1, rel=1e-6)
    moved = torch.tensor([[0.3, 0.0]])
    assert float(sound) < 0.3 < float(claimed)
    assert int(nearest_class(moved.double(), centroids.double(), owners)) == 2
    assert float(soft_radius(z, centroids, owners, 1.0)) == pytest.approx(float(sound), rel=1e-6)


@pytest.mark.parametrize("place", [0.0, 1.5])
@pytest.mark.parametrize("owners", [[0, 1], [0, 0, 1, 1], [0, 1, 0, 1, 2]])
def test_clusters_at_one_point_tie_everywhere_and_have_no_radius(place, owners):
    owners = torch.tensor(owners)
    z, centroids = torch.randn(7, 3), torch.full((len(owners), 3), place)
    for radii in (soft_radius(z, centroids, owners, 1.0), nearest_radius(z, centroids, owners)):
        assert torch.equal(radii, torch.zeros(7, dtype=torch.float64))


def test_where_all_clusters_are_one_point_the_class_with_the_most_of_them_has_the_larger_soft_score_everywhere():
    z, centroids, owners = torch.randn(7, 3), torch.ones(3, 3), torch.tensor([0, 0, 1])
    assert bool((soft_radius(z, centroids, owners, 1.0) > 1e100).all())
    assert torch.equal(nearest_radius(z, centroids, owners), torch.zeros(7, dtype=torch.float64))


def test_on_an_isometry_the_radius_is_attained():
    """ClusTR (arXiv), App. C: f = L Q x with Q orthogonal. Along the bisector's normal the class flips just past it."""
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        dimension, length = 6, 10.0 ** (seed % 5 - 2)
        rotation = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)).Q
        centroids = torch.randn(5, dimension, generator=generator, dtype=torch.float64)
        owners, x = torch.arange(5), torch.randn(1, dimension, generator=generator, dtype=torch.float64) / length
        features = length * x @ rotation.T
        radius = nearest_radius(features, centroids, owners, lipschitz=length)
        own = int(squared_distances(features, centroids).argmin())
        margins = [
            (
                float(squared_distances(features, centroids)[0, j] - squared_distances(features, centroids)[0, own])
                / (2 * float((centroids[j] - centroids[own]).norm())),
                j,
            )
            for j in range(5)
            if j != own
        ]
        rival = min(margins)[1]
        direction = (centroids[rival] - centroids[own]) @ rotation
        direction = direction / direction.norm()
        for share, label in ((1 - 1e-6, own), (1 + 1e-6, rival)):
            moved = length * (x + share * radius * direction) @ rotation.T
            assert int(nearest_class(moved, centroids, owners)) == label


def test_radii_are_the_head_s_own_rules():
    """A cluster head's decision stays within its radius, for the rule that it predicts with."""
    generator = torch.Generator().manual_seed(5)
    centroids, owners = torch.randn(9, 4, generator=generator), torch.arange(9) % 3
    features = torch.randn(200, 4, generator=generator)
    for rule in ("nearest", "soft"):
        head = ClusterHead(centroids, owners, 0.7, rule=rule, temperature=1.3).double()
        radii = (
            nearest_radius(features, head.centroids, owners)
            if rule == "nearest"
            else soft_radius(features, head.centroids, owners, head.effective_variance)
        )
        directions = torch.randn(200, 64, 4, generator=generator, dtype=torch.float64)
        directions = directions / directions.norm(dim=2, keepdim=True)
        with torch.no_grad():
            before = head(features.double()).argmax(1)
            moved = features.double().unsqueeze(1) + (1 - 1e-9) * radii[:, None, None] * directions
            after = head(moved.flatten(0, 1)).argmax(1).view(200, 64)
        assert bool((after == before.unsqueeze(1)).all())
        assert float((radii > 0).double().mean()) > 0.99


def test_a_radius_scales_with_space_and_with_the_lipschitz_constant(configuration):
    features, centroids, owners = configuration(3, 3, 4, 6)
    for radius in (
        lambda f, c, s, **o: nearest_radius(f, c, owners, **o),
        lambda f, c, s, **o: soft_radius(f, c, owners, 0.5 * s * s, **o),
    ):
        base = radius(features, centroids, 1.0)
        torch.testing.assert_close(radius(8 * features, 8 * centroids, 8.0), 8 * base)
        torch.testing.assert_close(radius(features, centroids, 1.0, lipschitz=4.0), base / 4)
        shifted = radius(features + 3.0, centroids + 3.0, 1.0)
        torch.testing.assert_close(shifted, base, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": torch.zeros(3, 5)}, r"must have one d, found \(3, 5\) and \(4, 2\)"),
        ({"classes": torch.zeros(3, dtype=torch.int64)}, r"classes must be \(4,\) integers"),
        ({"classes": torch.zeros(4, dtype=torch.int64)}, "at least two classes"),
        ({"features": torch.full((3, 2), math.nan)}, "must be finite"),
        ({"lipschitz": 0.0}, "positive and finite"),
        ({"lipschitz": math.inf}, "positive and finite"),
    ],
)
def test_what_has_no_radius_is_refused_in_one_line(change, words):
    arguments = {"features": torch.zeros(3, 2), "centroids": torch.randn(4, 2), "classes": torch.arange(4) % 2} | change
    with pytest.raises(ValueError, match=words):
        nearest_radius(**arguments)
    with pytest.raises(ValueError, match=words):
        soft_radius(**arguments, variance=1.0)
    with pytest.raises(ValueError, match="method must be 'exact' or 'fast', found 'best'"):
        nearest_radius(torch.zeros(1, 2), torch.randn(2, 2), torch.arange(2), method="best")


def test_no_features_have_no_radii():
    assert nearest_radius(torch.zeros(0, 2), torch.randn(4, 2), torch.arange(4) % 2).shape == (0,)
    assert soft_radius(torch.zeros(0, 2), torch.randn(4, 2), torch.arange(4) % 2, 1.0).shape == (0,)


@given(
    seed=st.integers(0, 2**31),
    classes=st.integers(2, 6),
    dimension=st.integers(1, 12),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
    biased=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_a_linear_radius_is_the_distance_to_the_nearest_hyperplane(seed, classes, dimension, scale, biased):
    """By plain sums; no point within it changes class, and the nearest hyperplane's foot does just past it."""
    generator = torch.Generator().manual_seed(seed)
    features, weight = (
        scale * torch.randn(count, dimension, generator=generator, dtype=torch.float64) for count in (10, classes)
    )
    bias = scale**2 * torch.randn(classes, generator=generator, dtype=torch.float64) if biased else None
    radii = linear_radius(features, weight, bias)
    offsets = torch.zeros(classes) if bias is None else bias
    for point, radius in zip(features.tolist(), radii.tolist(), strict=True):
        scores = [
            math.fsum(w * z for w, z in zip(row, point, strict=True)) + offset
            for row, offset in zip(weight.tolist(), offsets.tolist(), strict=True)
        ]
        own = scores.index(max(scores))
        distances = {
            rival: (scores[own] - scores[rival]) / math.dist(weight[own].tolist(), weight[rival].tolist())
            for rival in range(classes)
            if rival != own
        }
        rival, expected = min(distances.items(), key=lambda item: item[1])
        assert radius == pytest.approx(expected, rel=1e-6, abs=1e-9 * scale)
        normal = weight[rival] - weight[own]
        normal = normal / normal.norm()
        for share, stays in ((1 - 1e-6, True), (1 + 1e-6, False)):
            moved = torch.tensor(point, dtype=torch.float64) + share * expected * normal
            if expected > 1e-6 * scale:
                assert (int((weight @ moved + offsets).argmax()) == own) == stays


def test_centres_of_equal_length_have_one_radius_as_nearest_inner_product_and_cosine_rule():
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(6, 5, generator=generator, dtype=torch.float64)) * 3
    features = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    inner, nearest = linear_radius(features, centres), nearest_radius(features, centres, torch.arange(6))
    torch.testing.assert_close(inner, nearest, rtol=1e-9, atol=1e-12)
    cosines = torch.nn.functional.cosine_similarity(features.unsqueeze(1), centres, dim=2)
    assert torch.equal(cosines.argmax(1), (features @ centres.T).argmax(1))


def test_a_pairwise_margin_is_the_distance_to_the_bisector():
    z, own, rival = torch.tensor([[0.0, 0.0], [5.0, 1.0]]), torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 0.0])
    torch.testing.assert_close(pairwise_margin(z, own, rival), torch.tensor([1.0, -4.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="no bisector"):
        pairwise_margin(z, own, own)


def test_the_radius_of_a_head_is_that_of_its_rule(configuration):
    features, centroids, owners = configuration(7, 2, 3, 4)
    soft = soft_radius(features, centroids, owners, 0.5 * 1.3)
    nearest = nearest_radius(features, centroids, owners)
    for rule, expected in (("soft", soft), (6, soft), ("nearest", nearest), (1, nearest)):
        head = ClusterHead(centroids, owners, 0.5, rule=rule, temperature=1.3)
        torch.testing.assert_close(head_radius(head, features, lipschitz=2.0), expected / 2)
    with pytest.raises(UsageError, match="rule 2 of 6 clusters cannot be certified"):
        head_radius(ClusterHead(centroids, owners, 0.5, rule=2), features)
    linear = LinearHead(4, 3).double()
    torch.testing.assert_close(
        head_radius(linear, features), linear_radius(features, linear.linear.weight, linear.linear.bias)
    )


@pytest.mark.parametrize("method", ["exact", "fast"])
def test_radii_do_not_depend_on_how_many_features_are_measured_at_once(configuration, method, monkeypatch):
    features, centroids, owners = configuration(5, 3, 4, 7, count=90)
    radii = nearest_radius(features, centroids, owners, method=method)
    monkeypatch.setattr("corral.geometry.radii.nearest.ROWS", 7)
    torch.testing.assert_close(nearest_radius(features, centroids, owners, method=method), radii, rtol=1e-9, atol=1e-14)
    assert nearest_radius(features[:0], centroids, owners, method=method).shape == (0,)


def test_infinite_and_huge_features_are_told_apart(configuration):
    """A sum that is not finite may be of values that are: float32's overflows long before they do."""
    features, centroids, owners = configuration(1, 1, 3, 2)
    huge = (1e38 * (1 + features.abs())).clamp(max=3e38).float()
    assert not bool(huge.sum().isfinite())
    assert bool((nearest_radius(huge, centroids.float(), owners) >= 0).all())
    for bad in (math.inf, -math.inf, math.nan):
        broken = features.clone()
        broken[3, 1], broken[4, 1] = bad, -bad
        with pytest.raises(ValueError, match="must be finite"):
            nearest_radius(broken, centroids, owners)
