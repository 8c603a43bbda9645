"""CIFAR on the real files of unpack.py: all of CIFAR-10, and the class-balanced subset of CIFAR-100."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from corral.data import load

Refusal = Callable[..., str]
FOLDER10, FOLDER100 = "cifar-10-batches-bin", "cifar-100-binary"


def write_tiny(root: Path) -> Path:
    """CIFAR-10 files in the official layout: 4 random rows of each class a batch."""
    folder = root / FOLDER10
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]:
        rows = generator.integers(0, 256, (40, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(40) % 10
        (folder / name).write_bytes(rows.tobytes())
    return folder


@pytest.mark.real_data
def test_real_cifar10(real_cifar10: Path, shared: Path) -> None:
    """Row counts, class balance, the published channel statistics, and pixels decoded here a second time."""
    image = pytest.importorskip("PIL.Image")

    data = load("cifar10", root=real_cifar10, download=False)
    assert data.note == "official"
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert data.test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    counts = torch.stack(
        [torch.bincount(data.train.pixels[:, channel].flatten(), minlength=256) for channel in range(3)]
    )
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ levels
    deviation = (share @ levels.square() - mean.square()).sqrt()
    assert [round(float(value), 4) for value in mean] == [0.4914, 0.4822, 0.4465]
    assert [round(float(value), 4) for value in deviation] == [0.2470, 0.2435, 0.2616]
    with np.load(shared / "cifar10-png-test.npz") as source:
        content, offsets = source["test_bytes"], source["test_offsets"]
        assert np.array_equal(data.test.labels.numpy(), source["test_labels"])
    for row in (0, 1, 4999, 9999):
        decoded = np.asarray(image.open(io.BytesIO(content[offsets[row] : offsets[row + 1]].tobytes())).convert("RGB"))
        assert np.array_equal(data.test.pixels[row].permute(1, 2, 0).numpy(), decoded)


@pytest.mark.real_data
def test_real_cifar10_with_a_cut_batch_or_wrong_content(real_cifar10: Path, tmp_path: Path, refusal: Refusal) -> None:
    shutil.copytree(real_cifar10 / FOLDER10, tmp_path / FOLDER10)
    path = tmp_path / FOLDER10 / "data_batch_3.bin"
    content = path.read_bytes()
    for size in (30_729_999, 3073 * 9000, 100, 0):
        os.truncate(path, size)
        message = refusal(lambda: load("cifar10", root=tmp_path))
        assert (
            f"{path}: truncated or foreign: found {size:,} bytes, expected 30,730,000 (10,000 rows of 3,073)" in message
        )
        path.write_bytes(content)
    changed = bytearray(content)
    changed[0] = (changed[0] + 1) % 10
    path.write_bytes(changed)
    assert "foreign content: found" in refusal(lambda: load("cifar10", root=tmp_path))
    changed[3073] = 77
    path.write_bytes(changed)
    assert f"{path}: a foreign file: row 1 has label 77, expected 0 to 9" in refusal(
        lambda: load("cifar10", root=tmp_path)
    )


@pytest.mark.real_data
def test_real_cifar100_subset_has_fine_labels_and_says_what_it_is(real_small: Path, shared: Path) -> None:
    data = load("cifar100", root=real_small, download=False)
    with np.load(shared / "cifar100-8k.npz") as source:
        for part, images in (("train", data.train), ("test", data.test)):
            assert np.array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), source[f"{part}_images"])
            assert np.array_equal(images.labels.numpy(), source[f"{part}_labels"])
        assert list(data.classes) == [str(name) for name in source["classes"]]
    assert torch.bincount(data.train.labels).tolist() == [60] * 100
    assert data.note == "class-balanced subset: 6,000 of 50,000 train and 2,000 of 10,000 test images"


@pytest.mark.real_data
def test_real_cifar100_cut_at_a_row_is_truncated_not_a_subset(
    real_small: Path, tmp_path: Path, refusal: Refusal
) -> None:
    shutil.copytree(real_small / FOLDER100, tmp_path / FOLDER100)
    path = tmp_path / FOLDER100 / "train.bin"
    os.truncate(path, 3074 * 5999)
    message = refusal(lambda: load("cifar100", root=tmp_path))
    assert (
        f"{path}: truncated or foreign: found 18,440,926 bytes, expected 153,700,000 (50,000 rows of 3,074)" in message
    )


@pytest.mark.real_data
@pytest.mark.parametrize(("byte", "words"), [(0, "expected 0 to 19"), (1, "expected 0 to 99")])
def test_real_cifar100_with_foreign_labels(
    byte: int, words: str, real_small: Path, tmp_path: Path, refusal: Refusal
) -> None:
    shutil.copytree(real_small / FOLDER100, tmp_path / FOLDER100)
    path = tmp_path / FOLDER100 / "test.bin"
    content = bytearray(path.read_bytes())
    content[3074 * 7 + byte] = 200
    path.write_bytes(content)
    message = refusal(lambda: load("cifar100", root=tmp_path))
    assert f"{path}: a foreign file: row 7 has label 200, {words}" in message


@pytest.mark.real_data
def test_real_cifar100_with_wrong_class_names(real_small: Path, tmp_path: Path, refusal: Refusal) -> None:
    shutil.copytree(real_small / FOLDER100, tmp_path / FOLDER100)
    path = tmp_path / FOLDER100 / "fine_label_names.txt"
    path.write_text("apple\nbee\n")
    assert f"{path}: found 2 class names, expected 100" in refusal(lambda: load("cifar100", root=tmp_path))


def test_rows_are_label_then_channel_row_column(tmp_path: Path) -> None:
    """On tiny files in the official layout."""
    folder = write_tiny(tmp_path)
    data = load("cifar10", root=tmp_path, download=False)
    content = (folder / "data_batch_2.bin").read_bytes()
    row, channel, line, column = 7, 2, 30, 5
    assert (
        data.train.pixels[40 + row, channel, line, column]
        == content[row * 3073 + 1 + channel * 1024 + line * 32 + column]
    )
    assert data.train.labels[40 + row] == content[row * 3073]
    assert data.note == "class-balanced subset: 200 of 50,000 train and 40 of 10,000 test images"


def test_an_incomplete_folder_names_the_missing_file(tmp_path: Path, refusal: Refusal) -> None:
    """On tiny files in the official layout."""
    folder = write_tiny(tmp_path)
    (folder / "data_batch_4.bin").unlink()
    message = refusal(lambda: load("cifar10", root=tmp_path))
    assert f"cifar10: {folder} is incomplete: data_batch_4.bin is missing" in message


@pytest.mark.parametrize(("name", "pickled"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_pickled_folders_are_not_read(name: str, pickled: str, tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / pickled).mkdir()
    message = refusal(lambda: load(name, root=tmp_path, download=False))
    assert f"found {tmp_path / pickled}, but it is pickled and corral does not unpickle" in message
    assert "download=True" in message
