"""The cosine head's radii: nothing within them is decided otherwise, and with one rival they are exact."""

import math

import pytest
import torch

from corral.certify import head_radius
from corral.errors import UsageError
from corral.models import ClusterHead, CosineHead


def head_of(seed, *, classes=4, per_class=1, rule="nearest", features=5, scale=7.0):
    torch.manual_seed(seed)
    head = CosineHead(features, classes, clusters_per_class=per_class, scale=scale, rule=rule).double()
    with torch.no_grad():
        head.centroids.mul_(torch.rand(classes * per_class, 1, dtype=torch.float64) * 4 + 0.1)  # lengths never count
    return head.requires_grad_(False)


def features_of(seed, count=200, features=5):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.rand(count, 1, generator=generator, dtype=torch.float64) * 3
    return lengths * torch.randn(count, features, generator=generator, dtype=torch.float64)


def moves_of(head, features, seed):
    """(k, N, d) unit moves: random ones, and the ways straight to every plane between two directions."""
    generator = torch.Generator().manual_seed(seed + 1)
    random = torch.randn(60, *features.shape, generator=generator, dtype=torch.float64)
    directions = head.clusters.centroids
    pairs = (directions.unsqueeze(1) - directions).flatten(0, 1)
    pairs = pairs[pairs.norm(dim=1) > 1e-9]
    straight = pairs.unsqueeze(1).expand(-1, len(features), -1)
    mixed = random[:20] + 3 * straight[torch.randint(len(straight), (20,), generator=generator)]
    moves = torch.cat([random, straight, mixed])
    return moves / moves.norm(dim=2, keepdim=True)


@pytest.mark.parametrize("rule", ["nearest", "soft"])
@pytest.mark.parametrize("per_class", [1, 2, 5])
def test_no_point_within_the_radius_of_a_random_head_is_decided_otherwise(per_class, rule):
    for seed in range(6):
        head = head_of(seed, per_class=per_class, rule=rule, scale=(0.5, 7.0, 60.0)[seed % 3])
        features = features_of(seed)
        radii = head_radius(head, features)
        assert float(radii.min()) >= 0
        assert float(radii.median()) > 0
        moves = moves_of(head, features, seed) * radii.unsqueeze(1)
        decided = head(features).argmax(1)
        for share in (0.999, 0.5):
            found = torch.stack([head(features + share * move).argmax(1) for move in moves])
            assert bool((found == decided).all())


@pytest.mark.parametrize("rule", ["nearest", "soft"])
def test_with_two_centroids_the_radius_is_exact(rule):
    for seed in range(10):
        head = head_of(seed, classes=2, rule=rule)
        features = features_of(seed, 100)
        radii, decided = head_radius(head, features), head(features).argmax(1)
        own, rival = head.clusters.centroids[decided], head.clusters.centroids[1 - decided]
        way = (rival - own) / (rival - own).norm(dim=1, keepdim=True)
        # The distance to the plane between two directions, in closed form.
        torch.testing.assert_close(radii, -(features * way).sum(1), rtol=1e-9, atol=1e-12)
        nearly, past = (head(features + share * radii.unsqueeze(1) * way).argmax(1) for share in (0.999999, 1.000001))
        assert torch.equal(nearly, decided)
        assert torch.equal(past, 1 - decided)


def test_with_one_centroid_a_class_the_radius_is_the_nearest_plane_s():
    for seed in range(10):
        head, features = head_of(seed, classes=6), features_of(seed, 50)
        radii, decided = head_radius(head, features), head(features).argmax(1)
        directions = head.clusters.centroids
        for feature, radius, own in zip(features, radii, decided, strict=True):
            planes = [
                float((feature @ (directions[own] - rival)) / (directions[own] - rival).norm())
                for place, rival in enumerate(directions)
                if place != own
            ]
            assert float(radius) == pytest.approx(min(planes), rel=1e-9, abs=1e-12)


def test_radii_are_in_proportion_to_the_features_and_to_one_over_the_constant():
    for rule in ("nearest", "soft"):
        head, features = head_of(3, per_class=3, rule=rule), features_of(3)
        radii = head_radius(head, features)
        torch.testing.assert_close(head_radius(head, 8 * features), 8 * radii, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(head_radius(head, features, lipschitz=4), radii / 4, rtol=1e-12, atol=0)
    assert float(head_radius(head, torch.zeros(1, 5, dtype=torch.float64))) == 0
    tiny = head_radius(head, features * 1e-200)
    assert float(tiny.max()) <= 1e-190


def test_the_soft_radius_tends_to_the_nearest_rule_s_as_the_scale_grows():
    features = features_of(4)
    soft, nearest = head_of(4, per_class=2, rule="soft", scale=5e3), head_of(4, per_class=2)
    # Below the exact one, by what turning on the sphere gives away.
    loose = head_radius(soft, features)
    exact = head_radius(nearest, features)
    assert bool((loose <= exact * (1 + 1e-3) + 1e-3).all())
    assert float((loose / exact.clamp_min(1e-9)).median()) > 0.5


def test_a_centroid_without_a_direction_and_impossible_constants_are_refused():
    head = head_of(0)
    for constant in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="lipschitz must be positive and finite"):
            head_radius(head, features_of(0), lipschitz=constant)
    with pytest.raises(ValueError, match="finite"):
        head_radius(head, torch.full((1, 5), math.nan, dtype=torch.float64))
    head.centroids[0] = 0
    with pytest.raises(ValueError, match="a direction needs centroids longer"):
        head_radius(head, features_of(0))


class Bent(CosineHead):
    """Decides by something else, and says nothing of a radius."""

    def forward(self, features):
        return super().forward(features).flip(1)


class Halved(CosineHead):
    """Brings a radius of its own."""

    def forward(self, features):
        return super().forward(features)

    def certified_radius(self, features, *, lipschitz=1.0):
        return super().certified_radius(features, lipschitz=lipschitz) / 2


class Heir(Halved):
    """A subclass of one that brings its own radius: it inherits none."""


def test_a_radius_is_of_the_very_class_that_defines_it():
    features = features_of(1)
    for kind in (Bent, Heir):
        head = kind(5, 4).double()
        for call in (head.certified_radius, lambda features, head=head: head_radius(head, features)):
            with pytest.raises(UsageError, match=f"a {kind.__name__} has no radius: only heads of exactly the types"):
                call(features)
    head = Halved(5, 4).double()
    plain = CosineHead(5, 4).double()
    plain.load_state_dict(head.state_dict())
    torch.testing.assert_close(head_radius(head, features), head_radius(plain, features) / 2)
    head.register_forward_hook(lambda _, given, out: -out)
    for call in (head.certified_radius, lambda features: head_radius(head, features)):
        with pytest.raises(UsageError, match="has a forward hook"):
            call(features)


def test_a_cluster_head_s_own_method_refuses_as_head_radius_does():
    class Other(ClusterHead):
        def forward(self, features):
            return -super().forward(features)

    head = Other(torch.randn(4, 5), torch.arange(4), 1.0)
    with pytest.raises(UsageError, match="a Other has no radius"):
        head.certified_radius(torch.randn(2, 5))
    head = ClusterHead(torch.randn(4, 5), torch.arange(4), 1.0)
    head.forward = lambda features: features
    with pytest.raises(UsageError, match="replaced on the object"):
        head.certified_radius(torch.randn(2, 5))
