"""SVHN, which is not at hand: on tiny .mat files in the official layout, (32, 32, 3, N) images and labels 1 to 10."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from corral.data import load

Refusal = Callable[..., str]


def arrays(count: int) -> dict[str, np.ndarray]:
    images = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
    return {"X": images, "y": (np.arange(count, dtype=np.uint8) % 10 + 1).reshape(-1, 1)}


def write_tiny(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "train_32x32.mat", arrays(40), do_compression=True)
    savemat(folder / "test_32x32.mat", arrays(20), do_compression=True)


@pytest.mark.parametrize("folder", ["svhn", "SVHN", "."])
def test_tiny_official_layout(folder: str, tmp_path: Path) -> None:
    write_tiny(tmp_path / folder)
    data = load("svhn", root=tmp_path, download=False)
    images = arrays(20)["X"]
    for row, channel, line, column in ((0, 0, 0, 0), (7, 2, 30, 5), (19, 1, 3, 31)):
        assert data.test.pixels[row, channel, line, column] == images[line, column, channel, row]
    # The file's label 10 is the digit 0; the others are the digits themselves.
    assert data.train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 4
    assert data.classes[3] == "3"
    assert data.note == "class-balanced subset: 40 of 73,257 train and 20 of 26,032 test images"


def test_truncated_files_are_named(tmp_path: Path, refusal: Refusal) -> None:
    write_tiny(tmp_path / "svhn")
    path = tmp_path / "svhn/train_32x32.mat"
    content = path.read_bytes()
    for kept in (len(content) // 2, len(content) - 1000, 200, 60, 0):
        path.write_bytes(content[:kept])
        message = refusal(lambda: load("svhn", root=tmp_path))
        assert f"{path}: truncated or not a .mat file: {kept:,} bytes" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"X": None}, ["found the arrays y", "expected X and y"]),
        ({"X": np.zeros((32, 32, 3, 19), np.uint8)}, ["(32, 32, 3, 19)", "y uint8 (20, 1)", "(32, 32, 3, N)"]),
        ({"X": np.zeros((32, 32, 3, 20))}, ["found X float64"]),
        ({"y": np.full((20, 1), 0.5)}, ["y float64", "whole numbers"]),
        ({"y": np.full((20, 1), 11, np.uint8)}, ["row 0 has label 11", "expected 1 to 10"]),
        ({"y": np.zeros((20, 1), np.uint8)}, ["row 0 has label 0", "expected 1 to 10"]),
        ({"y": np.ones((20, 1), np.uint8)}, ["found 20 images", "expected 26,032"]),
    ],
)
def test_foreign_files_are_named(
    change: dict[str, np.ndarray | None], words: list[str], tmp_path: Path, refusal: Refusal
) -> None:
    write_tiny(tmp_path / "svhn")
    path = tmp_path / "svhn/test_32x32.mat"
    savemat(path, {name: array for name, array in {**arrays(20), **change}.items() if array is not None})
    message = refusal(lambda: load("svhn", root=tmp_path))
    assert f"{path}: a foreign file" in message
    assert all(word in message for word in words)
