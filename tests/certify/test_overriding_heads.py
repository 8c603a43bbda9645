"""Heads that decide otherwise than the centroids that they hold: broken within their parent's radii, and refused."""

import copy
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils import parametrizations, parametrize

from corral.certify import head_radius
from corral.errors import UsageError
from corral.models import ClusterHead, FeaturesHead, LinearHead

CLASSES, DIMENSION, COUNT = 4, 5, 500


def twist(seed):
    """Another decision for (N, C) logits of (N, d) features: rotated, biased, permuted, weighted or bent ones."""
    generator = torch.Generator().manual_seed(seed)
    kind = seed % 5
    weight = torch.randn(DIMENSION, CLASSES, generator=generator, dtype=torch.float64)
    order = torch.randperm(CLASSES, generator=generator).roll(1)
    bias = 5 * torch.randn(CLASSES, generator=generator, dtype=torch.float64)
    return {
        0: lambda features, logits: logits + features @ weight,
        1: lambda features, logits: logits + bias,
        2: lambda features, logits: logits[:, order] * (1 + features[:, :1].abs()) + bias,
        3: lambda features, logits: -logits.abs(),
        4: lambda features, logits: logits + 30 * torch.sin(3 * features @ weight),
    }[kind]


def plain(kind, seed):
    """A head in float64 that has a radius."""
    torch.manual_seed(seed)
    if kind == "linear":
        return LinearHead(DIMENSION, CLASSES).double().requires_grad_(False)
    centroids = torch.randn(2 * CLASSES, DIMENSION, dtype=torch.float64)
    return ClusterHead(centroids, torch.arange(2 * CLASSES) % CLASSES, 0.5, rule=kind)


def overriding(head, change):
    """A class that decides by the changed logits, with the given one's buffers."""

    class Other(type(head)):
        def forward(self, features):
            return change(features, super().forward(features))

    other = copy.copy(head)
    other.__class__ = Other
    return other


def calling(head, change):
    class Other(type(head)):
        def __call__(self, features):
            return change(features, super().__call__(features))

    other = copy.copy(head)
    other.__class__ = Other
    return other


def replaced(name):
    def make(head, change):
        other = copy.deepcopy(head)
        before = getattr(other, name)
        setattr(other, name, lambda features: change(features, before(features)))
        return other

    return make


def bound_method(head, change):
    other = copy.deepcopy(head)
    kind = type(other)
    other.forward = types.MethodType(lambda self, features: change(features, kind.forward(self, features)), other)
    return other


def hooked(head, change):
    other = copy.deepcopy(head)
    other.register_forward_hook(lambda _, given, out: change(given[0], out))
    return other


def hooked_with_keywords(head, change):
    other = copy.deepcopy(head)
    other.register_forward_hook(lambda _, given, named, out: change(given[0], out), with_kwargs=True, always_call=True)
    return other


def hooked_before(head, change):
    other = copy.deepcopy(head)
    other.register_forward_pre_hook(lambda _, given: given[0] * (1 + change(given[0], given[0][:, :CLASSES])[:, :1]))
    return other


class Noise(nn.Module):
    def forward(self, tensor):
        return torch.randn_like(tensor)


def parametrized(head, change):
    other = copy.deepcopy(head)
    owner, name = (other.linear, "weight") if isinstance(other, LinearHead) else (other, "centroids")
    parametrize.register_parametrization(owner, name, Noise())
    return other


WAYS = {
    "subclass": overriding,
    "subclass, __call__": calling,
    "forward on the object": replaced("forward"),
    "_call_impl on the object": replaced("_call_impl"),
    "bound method on the object": bound_method,
    "hook": hooked,
    "hook with keywords": hooked_with_keywords,
    "pre-hook": hooked_before,
    "parametrized": parametrized,
}


def features_of(head, seed):
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(COUNT, DIMENSION, generator=generator, dtype=torch.float64)


def broken(head, features, radii, seed, share=0.99):
    """How many of (N,) radii hold a feature that the head decides otherwise, at `share` of them."""
    generator = torch.Generator().manual_seed(seed + 1)
    moves = torch.randn(24, *features.shape, generator=generator, dtype=torch.float64)
    moves = moves / moves.norm(dim=2, keepdim=True) * share * radii.unsqueeze(1)
    with torch.no_grad():
        before = head(features).argmax(1)
        after = torch.stack([head(features + move).argmax(1) for move in moves])
    return int(((after != before) & (radii > 0)).any(0).sum())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["nearest", "soft", "linear"])
def test_heads_that_override_are_refused_where_their_parent_s_radii_are_broken(kind, way):
    """Forty of each kind and way: most break within 0.99 of the radius that they used to get."""
    found = 0
    for seed in range(40):
        head = plain(kind, seed)
        features = features_of(head, seed)
        radii = head_radius(head, features)
        assert broken(head, features, radii, seed) == 0
        other = WAYS[way](head, twist(seed))
        found += broken(other, features, radii, seed) > 0
        with pytest.raises(
            UsageError, match=r"has no radius|to certify|replaced on the object|parametrized by"
        ) as caught:
            head_radius(other, features)
        assert "\n" not in str(caught.value)
    assert found >= 24


@given(
    seed=st.integers(0, 2**31), kind=st.sampled_from(["nearest", "soft", "linear"]), way=st.sampled_from(sorted(WAYS))
)
@settings(max_examples=100, deadline=None)
def test_no_random_overriding_head_is_certified(seed, kind, way):
    head = plain(kind, seed)
    with pytest.raises(UsageError):
        head_radius(WAYS[way](head, twist(seed)), features_of(head, seed))
    assert head_radius(head, features_of(head, seed)).shape == (COUNT,)


def test_overriding_any_method_or_none_makes_another_type():
    class Warmer(ClusterHead):
        @property
        def effective_variance(self):
            return 100 * super().effective_variance

    class Same(LinearHead):
        pass

    warmer = Warmer(torch.randn(4, 3), torch.arange(4) % 2, 1.0)
    for head in (warmer, Same(3, 2), FeaturesHead(3), nn.Linear(3, 2)):
        with pytest.raises(UsageError, match=f"a {type(head).__name__} has no radius: only heads of exactly the types"):
            head_radius(head, torch.zeros(1, 3))


def test_hooks_on_all_modules_are_refused_while_they_are_there():
    head, features = plain("soft", 0), torch.zeros(2, DIMENSION, dtype=torch.float64)
    radii = head_radius(head, features)
    for register in (register_module_forward_hook, register_module_forward_pre_hook):
        handle = register(lambda *_: None)
        try:
            with pytest.raises(UsageError, match="forward hooks on all modules"):
                head_radius(head, features)
        finally:
            handle.remove()
    assert torch.equal(head_radius(head, features), radii)


def test_a_linear_head_s_own_layer_is_a_linear_layer():
    class Turned(nn.Linear):
        """Its weight may be anything each time that it is read."""

    head = LinearHead(DIMENSION, CLASSES)
    head.linear = Turned(DIMENSION, CLASSES)
    with pytest.raises(UsageError, match=r"head.linear must be an nn.Linear to have a radius, found Turned"):
        head_radius(head, torch.zeros(1, DIMENSION))


def test_clusters_set_past_refit_have_no_radius():
    """The decision goes by the index of the old classes, the radius would go by the new ones."""
    head = ClusterHead(torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([0, 0, 1]), 1.0, rule="nearest").double()
    feature = torch.tensor([[0.4]], dtype=torch.float64)
    assert float(head_radius(head, feature)) == pytest.approx(5.1)
    head.classes = torch.tensor([0, 1, 0])
    assert int(head(feature + 4).argmax(1)) == int(head(feature).argmax(1))
    with pytest.raises(UsageError, match="set clusters by refit"):
        head_radius(head, feature)
    head.refit(head.centroids, torch.tensor([0, 1, 0]), 1.0)
    assert float(head_radius(head, feature)) == pytest.approx(0.1)


def test_a_negative_variance_decides_by_the_farthest_centroid_and_has_no_radius():
    head = ClusterHead(torch.tensor([[0.0], [2.0]]), torch.arange(2), 1.0, rule="nearest")
    feature = torch.tensor([[0.4]])
    assert int(head(feature).argmax(1)) == 0
    head.variance.neg_()
    assert int(head(feature).argmax(1)) == 1
    with pytest.raises(ValueError, match=r"effective variance must be positive and finite, found -1\.0"):
        head_radius(head, feature)


def test_what_changes_no_value_and_torch_s_own_parametrizations_may_stay():
    for kind in ("nearest", "soft", "linear"):
        head = plain(kind, 3)
        features = features_of(head, 3)
        radii = head_radius(head, features)
        head.register_full_backward_hook(lambda *_: None)
        head.register_state_dict_post_hook(lambda *_: None)
        assert torch.equal(head_radius(head, features), radii)
        assert torch.equal(head_radius(copy.deepcopy(head), features), radii)
    head = LinearHead(DIMENSION, CLASSES).double()
    parametrizations.spectral_norm(head.linear)
    with torch.no_grad():
        state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        radii = head_radius(head.train(), features)
        assert head.training
        assert all(torch.equal(tensor, state[name]) for name, tensor in head.state_dict().items())
        assert broken(head.eval(), features, radii, 3) == 0
    assert float(radii.min()) > 0
