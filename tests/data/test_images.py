from collections.abc import Callable

import numpy as np
import pytest
import torch

from corral.data import DataSet, Images

Refusal = Callable[..., str]


def pixels(count: int = 4) -> torch.Tensor:
    return torch.arange(count * 2 * 3 * 3, dtype=torch.uint8).view(count, 2, 3, 3)


def test_every_8_bit_level_becomes_level_over_255(device: torch.device) -> None:
    levels = torch.arange(256, dtype=torch.uint8, device=device).view(256, 1, 1, 1)
    expected = torch.arange(256, dtype=torch.float64) / 255
    result = Images(levels).float()
    assert result.dtype == torch.float32
    assert result.device.type == device.type
    torch.testing.assert_close(result.flatten().cpu().double(), expected, rtol=0, atol=2**-25)
    assert torch.equal((result.flatten().cpu() * 255).round().byte(), levels.flatten().cpu())


def test_float_sources_pass_through_unchanged() -> None:
    values = torch.tensor([0.0, 0.123, 1.0]).view(3, 1, 1, 1)
    assert torch.equal(Images(values).float(), values)


def test_take_and_float_agree_on_rows_and_masks(device: torch.device) -> None:
    images = Images(pixels(), torch.tensor([0, 1, 2, 3])).to(device)
    rows = torch.tensor([2, 0, 2])
    assert torch.equal(images.take(rows).float(), images.float(rows))
    assert images.take(rows).labels.tolist() == [2, 0, 2]
    mask = torch.tensor([True, False, False, True])
    assert images.take(mask).labels.tolist() == [0, 3]
    assert images.shape == (2, 3, 3)
    assert len(images.take(rows)) == 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (torch.zeros(3, 2, 2, dtype=torch.uint8), ["(N, C, H, W)", "(3, 2, 2)"]),
        (torch.zeros(1, 0, 2, 2, dtype=torch.uint8), ["(N, C, H, W)", "(1, 0, 2, 2)"]),
        (torch.zeros(1, 1, 2, 2, dtype=torch.float64), ["uint8", "float32", "found float64"]),
        (torch.zeros(1, 1, 2, 2, dtype=torch.int64), ["found int64"]),
        (torch.full((2, 1, 2, 2), 255.0), ["[0, 1]", "found max 255", "divide by 255 or store uint8"]),
        (torch.full((2, 1, 2, 2), -0.5), ["[0, 1]", "found min -0.5"]),
    ],
)
def test_wrong_pixels_are_named(wrong: torch.Tensor, words: list[str], refusal: Refusal) -> None:
    message = refusal(lambda: Images(wrong))
    assert all(word in message for word in words)


def test_a_type_is_never_said_to_be_what_was_asked_for(refusal: Refusal) -> None:
    """NumPy's uint8 and int64 have the names that are expected of a tensor."""
    words = "must be a torch tensor, found ndarray: `corral.data.from_arrays` takes arrays and lists"
    assert words in refusal(lambda: Images(pixels().numpy()))  # type: ignore[arg-type]
    assert words in refusal(lambda: Images(pixels(), np.zeros(4, np.int64)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("excess", "words"), [(1e-6, "found 9.54e-07 outside of it"), (2e-3, "found 0.002 outside")])
def test_a_slight_excess_is_printed_and_is_no_other_scale(excess: float, words: str, refusal: Refusal) -> None:
    for values in (torch.full((1, 1, 2, 2), 1 + excess), torch.full((1, 1, 2, 2), -excess)):
        message = refusal(lambda values=values: Images(values))
        assert "clip them" in message
        assert (words in message) or "found 1e-06 outside" in message


def test_nan_pixels_are_counted_and_the_first_row_named(refusal: Refusal) -> None:
    values = torch.zeros(5, 1, 2, 2)
    values[2, 0, 0, 0] = torch.nan
    values[4, 0, 1, :] = torch.inf
    message = refusal(lambda: Images(values))
    assert "found 3 NaN or infinite" in message
    assert "first in row 2" in message


@pytest.mark.parametrize("labels", [torch.zeros(3, dtype=torch.int64), torch.zeros(4, dtype=torch.int32)])
def test_labels_must_be_int64_one_for_each_image(labels: torch.Tensor, refusal: Refusal) -> None:
    message = refusal(lambda: Images(pixels(), labels))
    assert "int64 of shape (4,)" in message
    assert str(tuple(labels.shape)) in message


@pytest.mark.parametrize("label", [-1, 3, 10])
def test_a_label_outside_the_classes_is_named_with_row_and_classes(label: int, refusal: Refusal) -> None:
    good = Images(pixels(), torch.tensor([0, 1, 2, 0]))
    bad = Images(pixels(), torch.tensor([0, 1, label, label]))
    message = refusal(lambda: DataSet("pets", ("a", "b", "c"), good, bad))
    assert f"pets: test: label {label} in row 2 is outside the 3 classes" in message


def test_a_data_set_needs_labelled_images_of_one_shape(refusal: Refusal) -> None:
    good = Images(pixels(), torch.zeros(4, dtype=torch.int64))
    other = Images(torch.zeros(1, 1, 3, 3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    empty = good.take(torch.tensor([], dtype=torch.int64))
    assert "without labels" in refusal(lambda: DataSet("x", ("a", "b"), good, Images(pixels())))
    assert "found 0 images" in refusal(lambda: DataSet("x", ("a", "b"), empty, good))
    assert "(1, 3, 3)" in refusal(lambda: DataSet("x", ("a", "b"), good, other))
    assert "unlabeled" in refusal(lambda: DataSet("x", ("a", "b"), good, good, other))
    assert "at least 2 classes" in refusal(lambda: DataSet("x", ("a",), good, good))


def test_the_fingerprint_depends_on_content_alone(device: torch.device) -> None:
    labels = torch.tensor([0, 1, 1, 0])
    data = DataSet("x", ("a", "b"), Images(pixels(), labels), Images(pixels(2), labels[:2]))
    strided = pixels().permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    same = DataSet("y", ("a", "b"), Images(strided, labels.clone()), Images(pixels(2), labels[:2]), note="other")
    assert data.fingerprint == same.fingerprint == data.to(device).fingerprint
    assert len(data.fingerprint) == 16
    assert set(data.fingerprint) <= set("0123456789abcdef")
    changed = pixels()
    changed[3, 1, 2, 2] ^= 1
    variants = {
        data.fingerprint,
        DataSet("x", ("a", "b"), Images(changed, labels), data.test).fingerprint,
        DataSet("x", ("a", "b"), Images(pixels(), 1 - labels), data.test).fingerprint,
        DataSet("x", ("a", "b"), data.test, data.train).fingerprint,
    }
    assert len(variants) == 4


def test_moving_a_data_set_leaves_the_unlabeled_part_unless_asked() -> None:
    labels = torch.tensor([0, 1, 1, 0])
    data = DataSet("x", ("a", "b"), Images(pixels(), labels), Images(pixels(), labels), Images(pixels()))
    moved = data.to("cpu")
    assert moved.unlabeled is data.unlabeled
    assert data.to("cpu", unlabeled=True).unlabeled is not data.unlabeled
    assert moved.note == data.note


def test_data_sets_are_frozen() -> None:
    images = Images(pixels())
    with pytest.raises(AttributeError):
        images.pixels = pixels()  # type: ignore[misc]
