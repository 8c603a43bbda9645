"""STL-10, which is not at hand: tiny files in the official layout, images by channel, column, row, labels 1 to 10."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from corral.data import load

Refusal = Callable[..., str]
SIZE = 3 * 96 * 96


def image_bytes(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, SIZE), dtype=np.uint8)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for part, count in (("train", 20), ("test", 10)):
        (folder / f"{part}_X.bin").write_bytes(image_bytes(count).tobytes())
        (folder / f"{part}_y.bin").write_bytes((np.arange(count, dtype=np.uint8) % 10 + 1).tobytes())
    (folder / "unlabeled_X.bin").write_bytes(image_bytes(7).tobytes())
    return folder


def test_tiny_official_layout(tiny: Path) -> None:
    data = load("stl10", root=tiny.parent, download=False)
    assert data.unlabeled is not None
    for images, count in ((data.train, 20), (data.test, 10), (data.unlabeled, 7)):
        assert images.pixels.shape == (count, 3, 96, 96)
        content = image_bytes(count)
        for row, channel, line, column in ((0, 0, 0, 1), (6, 2, 90, 5), (3, 1, 3, 95)):
            assert images.pixels[row, channel, line, column] == content[row, channel * 9216 + column * 96 + line]
    assert data.train.labels.tolist() == list(range(10)) * 2
    assert data.note == (
        "class-balanced subset: 20 of 5,000 train and 10 of 8,000 test images; 7 of 100,000 unlabeled images"
    )


def test_the_unlabeled_images_stay_on_the_disk(tiny: Path) -> None:
    """A sparse file of 2.6 GB loads without being read, and its rows are what the file says when they are taken."""
    path = tiny / "unlabeled_X.bin"
    os.truncate(path, 100_000 * SIZE)
    unlabeled = load("stl10", root=tiny.parent, download=False).unlabeled
    assert unlabeled is not None
    assert len(unlabeled) == 100_000
    with open(path, "r+b") as stream:
        stream.seek(99_999 * SIZE + 96 * 4 + 2)
        stream.write(b"\xff")
    taken = unlabeled.float(torch.tensor([99_999, 50_000]))
    assert taken.shape == (2, 3, 96, 96)
    assert taken.nonzero().tolist() == [[0, 0, 2, 4]]


def test_writing_to_the_unlabeled_pixels_never_changes_the_file(tiny: Path) -> None:
    before = (tiny / "unlabeled_X.bin").read_bytes()
    unlabeled = load("stl10", root=tiny.parent, download=False).unlabeled
    assert unlabeled is not None
    unlabeled.pixels.zero_()
    assert (tiny / "unlabeled_X.bin").read_bytes() == before


def test_without_the_unlabeled_file_there_is_no_unlabeled_part(tiny: Path) -> None:
    (tiny / "unlabeled_X.bin").unlink()
    data = load("stl10", root=tiny.parent, download=False)
    assert data.unlabeled is None
    assert "0 of 100,000 unlabeled" in data.note


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("train_X.bin", 20 * SIZE - 1, ["found 552,959 bytes", "expected 138,240,000 (5,000 rows of 27,648)"]),
        ("train_X.bin", 0, ["found 0 bytes"]),
        ("train_y.bin", 19, ["found 19 labels for 20 images"]),
        ("test_X.bin", 9 * SIZE, ["found 10 labels for 9 images"]),
        ("unlabeled_X.bin", 6 * SIZE + 1, ["found 165,889 bytes", "expected 2,764,800,000"]),
    ],
)
def test_truncated_files_are_named(name: str, size: int, words: list[str], tiny: Path, refusal: Refusal) -> None:
    os.truncate(tiny / name, size)
    message = refusal(lambda: load("stl10", root=tiny.parent))
    assert "truncated or foreign" in message
    assert all(word in message for word in words)


def test_images_cut_beside_official_labels_are_named(tiny: Path, refusal: Refusal) -> None:
    (tiny / "train_y.bin").write_bytes((np.arange(5000) % 10 + 1).astype(np.uint8).tobytes())
    message = refusal(lambda: load("stl10", root=tiny.parent))
    assert f"{tiny / 'train_X.bin'}: truncated or foreign: found 552,960 bytes, expected 138,240,000" in message


@pytest.mark.parametrize(("label", "words"), [(0, "row 3 has label 0, expected 1 to 10"), (11, "row 3 has label 11")])
def test_foreign_labels_are_named(label: int, words: str, tiny: Path, refusal: Refusal) -> None:
    content = bytearray((tiny / "test_y.bin").read_bytes())
    content[3] = label
    (tiny / "test_y.bin").write_bytes(content)
    assert words in refusal(lambda: load("stl10", root=tiny.parent))
