"""MNIST on the real files; Fashion-MNIST, which is not at hand, on tiny files in the official layout."""

import gzip
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from corral.data import load

Refusal = Callable[..., str]
RAW = Path("MNIST/raw")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_tiny(folder: Path, train: int = 30, test: int = 20) -> None:
    """Files in the official layout with random images and labels 0, 1, ..., 9, 0, ..."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (count, 28, 28))
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))


@pytest.mark.real_data
def test_real_mnist_is_read_bit_by_bit(real_small: Path, shared: Path) -> None:
    data = load("mnist", root=real_small, download=False)
    with np.load(shared / "mnist.npz") as source:
        for part, images in (("train", data.train), ("test", data.test)):
            assert np.array_equal(images.pixels[:, 0].numpy(), source[f"{part}_images"])
            assert np.array_equal(images.labels.numpy(), source[f"{part}_labels"])
    assert data.note == "official"
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    mean, deviation = (float(value) for value in torch.std_mean(data.train.float())[::-1])
    assert (round(mean, 4), round(deviation, 4)) == (0.1307, 0.3081)


@pytest.mark.real_data
def test_real_mnist_under_another_name_is_foreign(real_small: Path, tmp_path: Path, refusal: Refusal) -> None:
    shutil.copytree(real_small / RAW, tmp_path / "FashionMNIST/raw")
    message = refusal(lambda: load("fashion-mnist", root=tmp_path, download=False))
    assert "not fashion-mnist: found (5923, 6742," in message
    assert "expected (6000, 6000," in message


@pytest.mark.real_data
def test_a_real_file_that_was_cut_is_named_with_its_bytes(real_small: Path, tmp_path: Path, refusal: Refusal) -> None:
    shutil.copytree(real_small / RAW, tmp_path / RAW)
    path = tmp_path / RAW / "train-images-idx3-ubyte"
    os.truncate(path, 40_000_000)
    message = refusal(lambda: load("mnist", root=tmp_path))
    assert f"{path}: truncated or foreign: found 40,000,000 bytes, expected 47,040,016" in message


@pytest.mark.parametrize("folder", ["FashionMNIST/raw", "FashionMNIST", "."])
@pytest.mark.parametrize("zipped", [False, True])
def test_tiny_files_in_the_official_layout_of_fashion_mnist(folder: str, zipped: bool, tmp_path: Path) -> None:
    top = tmp_path / "root"
    write_tiny(top / folder)
    expected = np.frombuffer((top / folder / "t10k-images-idx3-ubyte").read_bytes(), np.uint8)[16:].reshape(20, 28, 28)
    if zipped:
        for path in list((top / folder).iterdir()):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    data = load("fashion-mnist", root=top, download=False)
    assert np.array_equal(data.test.pixels[:, 0].numpy(), expected)
    assert data.train.labels.tolist() == [row % 10 for row in range(30)]
    assert data.classes[9] == "ankle boot"
    assert data.note == "subset: 30 of 60,000 train and 20 of 10,000 test images"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train-labels-idx1-ubyte", b"", ["not an idx file", "found first bytes none"]),
        ("train-labels-idx1-ubyte", b"\x89PNG\r\n\x1a\n", ["found first bytes 89 50 4e 47", "expected 00 00 08 01"]),
        ("train-images-idx3-ubyte", idx(np.zeros(30)), ["found first bytes 00 00 08 01", "expected 00 00 08 03"]),
        ("train-labels-idx1-ubyte", idx(np.zeros(29)), ["found 29 labels", "(30, 28, 28)"]),
        ("train-images-idx3-ubyte", idx(np.zeros((30, 8, 8))), ["(30, 8, 8)", "28×28"]),
        ("t10k-labels-idx1-ubyte", idx(np.full(20, 10)), ["row 0 has label 10", "expected 0 to 9"]),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(20)) + b"x", ["found 29 bytes, expected 28"]),
        ("t10k-images-idx3-ubyte", idx(np.zeros((0, 28, 28))), ["20 labels", "(0, 28, 28)"]),
    ],
)
def test_foreign_files_are_named(name: str, content: bytes, words: list[str], tmp_path: Path, refusal: Refusal) -> None:
    """On tiny files in the official layout."""
    write_tiny(tmp_path / RAW)
    (tmp_path / RAW / name).write_bytes(content)
    message = refusal(lambda: load("mnist", root=tmp_path))
    assert name.split("-")[0] in message
    assert str(tmp_path) in message
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(idx(np.arange(30) % 10))[:-12]],
    ids=["not gzip", "cut"],  # the bytes hold the time
)
def test_a_broken_gzip_file_is_named(content: bytes, tmp_path: Path, refusal: Refusal) -> None:
    """On tiny files in the official layout."""
    write_tiny(tmp_path / RAW)
    (tmp_path / RAW / "train-labels-idx1-ubyte").unlink()
    path = tmp_path / RAW / "train-labels-idx1-ubyte.gz"
    path.write_bytes(content)
    assert f"{path}: truncated or not a gzip file" in refusal(lambda: load("mnist", root=tmp_path, download=False))


def test_no_more_is_unpacked_than_a_file_says(tmp_path: Path, refusal: Refusal) -> None:
    """Zeros by the gigabyte pack into nothing."""
    write_tiny(tmp_path / RAW)
    (tmp_path / RAW / "train-labels-idx1-ubyte").unlink()
    path = tmp_path / RAW / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.arange(30) % 10) + bytes(10_000_000)))
    read, sizes = gzip.GzipFile.read, []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gzip.GzipFile, "read", lambda self, size=-1: (sizes.append(size), read(self, size))[1])
        assert "found 39 bytes or more, expected 38" in refusal(lambda: load("mnist", root=tmp_path, download=False))
    assert sizes == [8, 31]
    path.write_bytes(gzip.compress(bytes((0, 0, 8, 1)) + b"\xff" * 4))
    message = refusal(lambda: load("mnist", root=tmp_path, download=False))
    assert "found shape (4294967295,), expected at most 60,000 values" in message
