import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.data import load
from corral.data.loading.arrays import as_pixels

Refusal = Callable[..., str]
GENERATOR = np.random.default_rng(0)
COLOUR = GENERATOR.integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(20) % 4


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def split_arrays(**changes: Any) -> dict[str, Any]:
    arrays = {"train_images": COLOUR, "train_labels": LABELS, "test_images": COLOUR[:8], "test_labels": LABELS[:8]}
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR[..., 0], COLOUR[..., 0][:, None]),
        (COLOUR[..., :1], COLOUR[..., :1].transpose(0, 3, 1, 2)),
    ],
)
def test_all_layouts_become_channel_row_column(images: np.ndarray, expected: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", **split_arrays(train_images=images, test_images=images[:8]))
    data = load(f"npz:{path}")
    assert np.array_equal(data.train.pixels.numpy(), expected)
    assert np.array_equal(data.test.pixels.numpy(), expected[:8])
    assert data.train.labels.tolist() == LABELS.tolist()
    assert data.classes == ("0", "1", "2", "3")
    assert data.name == f"npz:{path}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_of_8_bit_images_become_the_same_uint8(dtype: type, tmp_path: Path) -> None:
    arrays = split_arrays(train_images=COLOUR.astype(dtype) / dtype(255), test_images=COLOUR[:8] / 255)
    data = load(f"npz:{write(tmp_path / 'x.npz', **arrays)}")
    whole = load(f"npz:{write(tmp_path / 'y.npz', **split_arrays())}")
    assert data.train.pixels.dtype == torch.uint8
    assert data.fingerprint == whole.fingerprint


@given(st.integers(0, 255), st.floats(2**-20, 0.5))
def test_one_value_off_the_levels_keeps_floats(level: int, share: float) -> None:
    """A share of the step between two levels, well above float32 rounding, is not rounded away."""
    value = np.float64(min(level, 254) + max(share, 2**-12)) / 255
    images = np.full((2, 5, 5), value)
    pixels = as_pixels("x.npz: images", images, layout=None)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, torch.full((2, 1, 5, 5), np.float32(value)))


def test_without_a_test_part_a_fixed_stratified_fifth_is_split_off(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", images=COLOUR, labels=LABELS[:, None], classes=np.array(["a", "b", "c", "d"]))
    data = load(f"npz:{path}")
    assert (len(data.train), len(data.test)) == (16, 4)
    assert data.test.labels.tolist().count(2) == 1
    assert data.classes == ("a", "b", "c", "d")
    assert "no test part in the source: a fixed stratified fifth (4 images)" in data.note
    assert data.fingerprint == load(f"npz:{path}").fingerprint


def test_arrays_that_are_not_read_are_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", **split_arrays(val_images=COLOUR, val_labels=LABELS))
    assert load(f"npz:{path}").note == "arrays of x.npz without val_images, val_labels"


def test_a_layout_entry_decides_where_the_shape_does_not(tmp_path: Path, refusal: Refusal) -> None:
    square = COLOUR[:, :3, :, :]
    arrays = split_arrays(train_images=square, test_images=square)
    arrays["test_labels"] = LABELS
    path = write(tmp_path / "x.npz", **arrays)
    message = refusal(lambda: load(f"npz:{path}"))
    assert f"{path}: train_images of shape (20, 3, 5, 3) could be NHWC or NCHW" in message
    for layout, shape in (("NHWC", (3, 3, 5)), ("NCHW", (3, 5, 3))):
        write(path, **arrays, layout=layout)
        assert load(f"npz:{path}").train.shape == shape
    write(path, **arrays, layout="CHWN")
    assert "layout is 'CHWN', expected NHWC or NCHW" in refusal(lambda: load(f"npz:{path}"))


FLOATS = COLOUR / 255
NAN = FLOATS.copy()
NAN[3, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test_labels": None}, ["found the arrays test_images, train_images, train_labels", "add test_labels"]),
        ({"train_images": None}, ["add train_images"]),
        ({"train_images": COLOUR.astype(np.int64)}, ["train_images is int64", "uint8 or floats in [0, 1]"]),
        (
            {"train_images": COLOUR.astype(np.float32)},
            ["train_images", "found max 255", "divide by 255 or store uint8"],
        ),
        ({"train_images": FLOATS - 0.5}, ["train_images", "found min -0.5"]),
        ({"train_images": NAN}, ["train_images", "found 1 NaN or infinite", "first in row 3"]),
        ({"train_images": COLOUR[0, 0]}, ["train_images has the shape (5, 3)", "(N, H, W, C)"]),
        ({"train_images": np.zeros((20, 6, 5, 7), np.uint8)}, ["has no axis of 1 to 4 channels"]),
        ({"train_labels": LABELS[:19]}, ["train_images", "int64 of shape (20,)", "(19,)"]),
        ({"train_labels": LABELS / 2}, ["train_labels is float64", "whole number"]),
        ({"test_labels": np.arange(8) - 1}, ["test_labels: label -1 in row 0 is outside the 7 classes"]),
        ({"classes": np.array(["a", "b", "c"])}, ["train_labels: label 3 in row 3 is outside the 3 classes"]),
        ({"classes": np.arange(4)}, ["classes is int64", "expected a list of names"]),
        ({"test_images": COLOUR[:8, :5]}, ["test images are (3, 5, 5)", "train images are (3, 6, 5)"]),
    ],
)
def test_wrong_arrays_are_named(changes: dict[str, Any], words: list[str], tmp_path: Path, refusal: Refusal) -> None:
    path = write(tmp_path / "x.npz", **split_arrays(**changes))
    message = refusal(lambda: load(f"npz:{path}"))
    assert str(path) in message
    assert all(word in message for word in words)


def test_objects_are_not_unpickled(tmp_path: Path, refusal: Refusal) -> None:
    path = write(tmp_path / "x.npz", **split_arrays(classes=np.array(["a", None], dtype=object)))
    assert "array classes is damaged (it holds Python objects, which are not unpickled" in refusal(
        lambda: load(f"npz:{path}")
    )


def test_files_that_are_not_whole_archives(tmp_path: Path, refusal: Refusal) -> None:
    path = write(tmp_path / "x.npz", **split_arrays())
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"GIF89a", b"\x80\x04N."):
        path.write_bytes(broken)
        assert f"{path}: not an .npz file, or truncated" in refusal(lambda: load(f"npz:{path}"))
    damaged = bytearray(content)
    damaged[600] ^= 255
    path.write_bytes(damaged)
    assert "array train_images is damaged" in refusal(lambda: load(f"npz:{path}"))
    with open(path, "wb") as stream:
        np.save(stream, COLOUR)
    assert "not an .npz file" in refusal(lambda: load(f"npz:{path}"))
    assert "cannot be read" in refusal(lambda: load(f"npz:{tmp_path / 'absent.npz'}"))


def test_too_few_images_for_a_test_part(tmp_path: Path, refusal: Refusal) -> None:
    path = write(tmp_path / "x.npz", images=COLOUR[:2], labels=LABELS[:2])
    assert f"{path}: no test part, and a fifth of the 2 images cannot be split off" in refusal(
        lambda: load(f"npz:{path}")
    )


def test_one_wild_label_is_named(tmp_path: Path, refusal: Refusal) -> None:
    path = tmp_path / "wild.npz"
    labels = np.array([0, 1, 2**32 - 1], dtype=np.uint32)
    np.savez(path, images=np.zeros((3, 4, 4), np.uint8), labels=labels)
    assert f"{path}: found label 4,294,967,295 among 3 images: more classes than images" in refusal(
        lambda: load(f"npz:{path}")
    )


@pytest.mark.parametrize("damage", ["shape", "compression", "password"])
def test_a_header_that_asks_for_the_impossible_is_one_line(damage: str, tmp_path: Path, refusal: Refusal) -> None:
    path = tmp_path / "damaged.npz"
    if damage == "shape":  # a terabyte of pixels, says the header
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 8, 8)})
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", stream.getvalue() + bytes(64))
            archive.writestr("labels.npy", stream.getvalue() + bytes(64))
    else:
        np.savez(path, images=np.zeros((3, 4, 4), np.uint8), labels=np.arange(3))
        content = bytearray(path.read_bytes())
        for signature, flags, method in ((b"PK\x03\x04", 6, 8), (b"PK\x01\x02", 8, 10)):
            place = content.find(signature)
            while place >= 0:
                content[place + (flags if damage == "password" else method)] |= 1 if damage == "password" else 77
                place = content.find(signature, place + 4)
        path.write_bytes(content)
    assert str(path) in refusal(lambda: load(f"npz:{path}"))
