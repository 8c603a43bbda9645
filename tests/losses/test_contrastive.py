"""Contrastive losses against double loops, closed forms and invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.losses import contrastive, negative_cosine, nt_xent


def embeddings(views, images, dimension, seed):
    return torch.randn(views, images, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def by_loops(views, temperature, anchors):
    """Eq. 1 as it is written."""
    count, images = views.shape[:2]
    losses = []
    for view in range(anchors):
        row = []
        for image in range(images):
            anchor, positives, everything = views[view, image], 0.0, 0.0
            for other_view in range(count):
                for other in range(images):
                    if (other_view, other) == (view, image):
                        continue
                    value = math.exp(cosine(anchor, views[other_view, other]) / temperature)
                    everything += value
                    positives += value if other == image else 0.0
            row.append(-math.log(positives / everything))
        losses.append(row)
    return torch.tensor(losses, dtype=torch.float64)


SHAPES = {
    "views": st.integers(2, 4),
    "images": st.integers(1, 7),
    "dimension": st.integers(1, 6),
    "seed": st.integers(0, 2**31),
    "temperature": st.sampled_from([0.05, 0.5, 3.0]),
}


@settings(deadline=None, max_examples=60)
@given(**SHAPES, block=st.integers(1, 30))
def test_it_is_equation_1(views, images, dimension, seed, temperature, block):
    given_views = embeddings(views, images, dimension, seed)
    found = contrastive(given_views, temperature=temperature, block=block)
    torch.testing.assert_close(found, by_loops(given_views, temperature, views), rtol=1e-9, atol=1e-9)
    some = contrastive(given_views, temperature=temperature, anchors=1, block=block)
    torch.testing.assert_close(some, found[:1], rtol=1e-12, atol=1e-12)


def test_gradients_do_not_depend_on_the_block():
    given_views = embeddings(3, 9, 5, 0).requires_grad_(True)
    whole = torch.autograd.grad(contrastive(given_views).mean(), given_views)[0]
    for block in (1, 4, 26):
        pieces = torch.autograd.grad(contrastive(given_views, block=block).mean(), given_views)[0]
        torch.testing.assert_close(pieces, whole, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda v: contrastive(v, block=5), (given_views,))


@settings(deadline=None, max_examples=30)
@given(images=st.integers(2, 9), seed=st.integers(0, 2**31))
def test_nt_xent_is_cross_entropy_toward_the_partner(images, seed):
    """SimCLR's own form: each of 2N rows classifies its partner among the 2N - 1 others."""
    first, second = embeddings(2, images, 4, seed)
    units = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    logits = (units @ units.T / 0.5).fill_diagonal_(-torch.inf)
    partner = torch.arange(2 * images).roll(images)
    expected = torch.nn.functional.cross_entropy(logits, partner)
    torch.testing.assert_close(nt_xent(first, second), expected, rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=30)
@given(views=st.integers(2, 4), images=st.integers(2, 5), seed=st.integers(0, 2**31))
def test_each_positive_by_itself_is_the_mean_of_their_losses(views, images, seed):
    """Khosla et al. 2020, Eq. 2, by loops: the mean over the positives of -log of each one's share."""
    given_views = embeddings(views, images, 4, seed)
    flat = given_views.flatten(0, 1)
    found = contrastive(given_views, positives="each").flatten()
    for anchor in range(len(flat)):
        weights = {o: math.exp(cosine(flat[anchor], flat[o]) / 0.5) for o in range(len(flat)) if o != anchor}
        own = [o for o in weights if o % images == anchor % images]
        expected = sum(-math.log(weights[o] / sum(weights.values())) for o in own) / len(own)
        assert float(found[anchor]) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if views == 2:
        torch.testing.assert_close(found, contrastive(given_views).flatten())


def test_it_sees_directions_alone_and_not_the_order_of_images():
    given_views = embeddings(2, 6, 5, 3)
    lengths = torch.rand(2, 6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    turned = torch.tensor([3, 1, 5, 0, 2, 4])
    found = contrastive(given_views)
    torch.testing.assert_close(contrastive(given_views * lengths), found, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(contrastive(given_views[:, turned]), found[:, turned], rtol=1e-9, atol=1e-9)


def test_a_single_image_has_no_negatives_and_no_loss():
    assert float(contrastive(embeddings(2, 1, 4, 0)).abs().max()) < 1e-12


def test_equal_embeddings_cost_the_logarithm_of_the_others():
    same = torch.ones(2, 8, 3, dtype=torch.float64)
    torch.testing.assert_close(contrastive(same), torch.full((2, 8), math.log(15.0), dtype=torch.float64))


def test_sharp_temperatures_stay_finite():
    views = embeddings(2, 5, 3, 1).float().requires_grad_(True)
    loss = contrastive(views, temperature=1e-3)
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(torch.autograd.grad(loss.sum(), views)[0]).all())


def test_negative_cosine():
    first, second = embeddings(2, 7, 4, 2)
    expected = torch.tensor([-cosine(a, b) for a, b in zip(first, second, strict=True)], dtype=torch.float64)
    torch.testing.assert_close(negative_cosine(first, second), expected)
    assert float(negative_cosine(torch.zeros(1, 4), torch.ones(1, 4))) == 0


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((1, 4, 3), {}, "at least 2 views of 1 image, found \\(1, 4, 3\\)"),
        ((2, 0, 3), {}, "at least 2 views of 1 image"),
        ((4, 3), {}, "must be \\(V, N, d\\)"),
        ((2, 4, 3), {"temperature": 0.0}, "temperature must be above 0"),
        ((2, 4, 3), {"temperature": float("nan")}, "temperature must be above 0"),
        ((2, 4, 3), {"anchors": 3}, "anchors from 1 to 2"),
        ((2, 4, 3), {"block": 0}, "block above 0"),
        ((2, 4, 3), {"positives": "some"}, "positives 'some' is not one of together, each"),
    ],
)
def test_what_has_no_loss_is_refused(shape, options, words):
    with pytest.raises(ValueError, match=words):
        contrastive(torch.ones(shape), **options)
