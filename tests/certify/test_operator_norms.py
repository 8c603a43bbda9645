"""Guaranteed operator norms against singular values, and against convolutions written out as matrices."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from corral.certify import conv_norm_upper, dense_norm_upper, operator_norms
from corral.certify.gram import spectral_norms_upper


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(function, shape):
    """The matrix of a linear map of images, from what it makes of every basis image."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    return function(basis).flatten(1).T


def true_norm(matrix):
    return float(np.linalg.norm(matrix.numpy(), 2))


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    kind=st.sampled_from(["normal", "rank one", "orthogonal", "graded", "sparse"]),
    scale=st.sampled_from([1e-300, 1e-150, 1e-8, 1.0, 1e8, 1e150, 1e300]),
)
@settings(max_examples=150, deadline=None)
def test_a_dense_bound_is_above_the_largest_singular_value_and_within_a_millionth(seed, rows, columns, kind, scale):
    weight = normal(rows, columns, seed=seed)
    if kind == "rank one":
        weight = weight[:, :1] * weight[:1]
    if kind == "orthogonal":
        weight = torch.linalg.qr(weight).Q
    if kind == "graded":
        weight = weight * torch.logspace(0, -20, columns, dtype=torch.float64)
    if kind == "sparse":
        weight = weight * (normal(rows, columns, seed=seed + 1) > 1)
    truth = true_norm(weight)  # at scale 1, where LAPACK is at its best
    bound = dense_norm_upper(weight * scale) / scale
    assert truth * (1 - 1e-14) <= bound <= truth * (1 + 1e-6)


def test_every_number_of_iterations_gives_a_bound_and_more_give_a_better_one():
    weight = normal(40, 60)
    truth, frobenius = true_norm(weight), float(weight.norm())
    bounds = [dense_norm_upper(weight, iterations=count) for count in range(8)]
    assert bounds[0] == pytest.approx(frobenius)
    assert bounds == sorted(bounds, reverse=True)
    assert min(bounds) >= truth


def test_rounding_in_the_sum_is_paid_for():
    """A hundred million times the same small number beside one: summed in any order, what is lost is added back."""
    weight = torch.ones(1, 200_000, dtype=torch.float64) * 1e-9
    weight[0, 0] = 1.0
    truth = math.sqrt(math.fsum([1.0, *[1e-18] * 199_999]))
    assert truth <= dense_norm_upper(weight) <= truth * (1 + 1e-9)


def test_zeros_have_norm_zero():
    assert dense_norm_upper(torch.zeros(3, 5)) == 0.0
    assert conv_norm_upper(torch.zeros(2, 3, 3, 3), image_size=(8, 8), padding=1) == 0.0


def test_complex_matrices_and_rows_that_need_no_refinement():
    matrices = torch.complex(normal(20, 6, 9), normal(20, 6, 9, seed=1))
    truth = torch.linalg.matrix_norm(matrices, 2)
    found = spectral_norms_upper(matrices)
    assert bool(((found >= truth * (1 - 1e-14)) & (found <= truth * (1 + 1e-6))).all())
    middle = float(truth.median())
    coarse = spectral_norms_upper(matrices, enough=middle)
    assert bool((coarse >= truth * (1 - 1e-14)).all())
    assert bool((coarse[truth > middle] <= truth[truth > middle] * (1 + 1e-6)).all())
    largest = spectral_norms_upper(matrices, largest=True)
    assert bool((largest >= truth * (1 - 1e-14)).all())
    assert float(largest.max()) <= float(truth.max()) * (1 + 1e-6)


CONVOLUTIONS = [
    # kernel, image, options
    ((3, 3), (8, 8), {"padding": 1}),
    ((3, 3), (8, 7), {"padding": 1, "stride": 2}),
    ((3, 3), (7, 7), {"padding": 0}),
    ((1, 1), (6, 6), {}),
    ((1, 1), (6, 6), {"stride": 2}),
    ((4, 4), (9, 6), {"padding": 1, "stride": 2}),
    ((2, 3), (6, 5), {"padding": (1, 0), "stride": (1, 2)}),
    ((3, 3), (8, 8), {"padding": 2, "dilation": 2}),
    ((3, 2), (9, 8), {"padding": (2, 1), "dilation": (2, 3), "stride": (3, 1)}),
    ((5, 5), (5, 5), {"padding": 4}),
    ((3, 3), (3, 3), {"padding": 5, "stride": (1, 2)}),
    ((5, 5), (3, 3), {"padding": 2}),
    ((3, 3), (6, 6), {"padding": 1, "groups": 2}),
    ((3, 3), (6, 6), {"padding": 1, "stride": 2, "groups": 4}),
    ((3, 3), (6, 6), {"padding": "same"}),
    ((3, 3), (6, 6), {"padding": "valid"}),
]


@pytest.fixture
def large(monkeypatch):
    """Treats small images as it does large ones, of which no matrix could be written out here."""
    monkeypatch.setattr(operator_norms, "MOST_ENTRIES", 0)


@pytest.mark.parametrize(("kernel", "image", "options"), CONVOLUTIONS)
def test_a_small_convolution_s_bound_is_its_matrix_s_norm(kernel, image, options):
    weight = normal(4, 4 // options.get("groups", 1), *kernel)
    truth = true_norm(written_out(lambda x: functional.conv2d(x, weight, **options), (4, *image)))
    bound = conv_norm_upper(weight, image_size=image, **options)
    assert truth * (1 - 1e-14) <= bound <= truth * (1 + 1e-6)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(("kernel", "image", "options"), CONVOLUTIONS)
def test_a_convolution_s_bound_is_above_its_matrix_and_near(kernel, image, options):
    for seed in range(3):
        weight = normal(4, 4 // options.get("groups", 1), *kernel, seed=seed)
        truth = true_norm(written_out(lambda x, w=weight: functional.conv2d(x, w, **options), (4, *image)))
        bound = conv_norm_upper(weight, image_size=image, **options)
        assert truth * (1 - 1e-14) <= bound <= truth * (1.3 if min(image) > max(kernel) else 2.5)


def test_same_padding_of_an_even_kernel_has_more_zeros_on_one_side(monkeypatch):
    weight = normal(3, 2, 4, 2)
    padded = written_out(lambda x: functional.conv2d(functional.pad(x, (0, 1, 1, 2)), weight), (2, 6, 5))
    truth = true_norm(padded)
    assert conv_norm_upper(weight, image_size=(6, 5), padding="same") == pytest.approx(truth, rel=1e-6)
    monkeypatch.setattr(operator_norms, "MOST_ENTRIES", 0)
    assert conv_norm_upper(weight, image_size=(6, 5), padding="same") >= truth * (1 - 1e-14)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_the_bound_is_the_circular_operator_s_norm(kernel, stride):
    """On the image grown by its padding to a multiple of the stride, wrapped around."""
    weight, side, padding = normal(3, 2, kernel, kernel, seed=kernel), 6, kernel // 2
    circle = math.ceil((side + padding) / stride) * stride

    def circular(x):
        wrapped = functional.pad(x, (0, kernel - 1, 0, kernel - 1), mode="circular")
        return functional.conv2d(wrapped, weight, stride=stride)

    truth = true_norm(written_out(circular, (2, circle, circle)))
    bound = conv_norm_upper(weight, image_size=(side, side), padding=padding, stride=stride)
    assert truth * (1 - 1e-14) <= bound <= truth * (1 + 1e-6)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_a_convolution_s_bound_scales(scale):
    weight = normal(3, 3, 3, 3)
    options = {"image_size": (5, 5), "padding": 1}
    assert conv_norm_upper(weight * scale, **options) / scale == pytest.approx(
        conv_norm_upper(weight, **options), rel=1e-12
    )


def test_narrow_weights_count_as_they_are():
    weight = normal(4, 3, 3, 3)
    for dtype in (torch.float32, torch.bfloat16):
        stored = weight.to(dtype)
        options = {"image_size": (6, 6), "padding": 1}
        assert conv_norm_upper(stored, **options) == conv_norm_upper(stored.double(), **options)
        assert dense_norm_upper(stored.flatten(1)) == dense_norm_upper(stored.flatten(1).double())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_in_one_line(bad):
    weight = torch.ones(2, 2, 3, 3)
    weight[1, 0, 2, 1] = bad
    with pytest.raises(ValueError, match=r"weights must be finite, found NaN or infinity in a weight of shape \(2, 2,"):
        conv_norm_upper(weight, image_size=(8, 8))
    with pytest.raises(ValueError, match="weights must be finite"):
        dense_norm_upper(weight[:, 0].flatten(1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": torch.ones(2, 3)}, "weight must be"),
        ({"groups": 3}, "with 3 groups"),
        ({"image_size": (2, 8)}, "images of 2×8 are smaller than the 3×3 kernel"),
        ({"stride": 0}, "at least 1"),
        ({"padding": -1}, "padding must be at least 0, found -1"),
        ({"padding": "full"}, "'same' or 'valid', found 'full'"),
    ],
)
def test_shapes_without_a_convolution_are_refused(change, words):
    arguments = {"weight": torch.ones(2, 2, 3, 3), "image_size": (8, 8)} | change
    with pytest.raises(ValueError, match=words):
        conv_norm_upper(arguments.pop("weight"), **arguments)


def test_a_dense_weight_is_a_matrix():
    with pytest.raises(ValueError, match=r"weight must be \(m, n\), found \(3,\)"):
        dense_norm_upper(torch.ones(3))
