from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from corral.data import load

Refusal = Callable[..., str]


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(colours).convert(mode)


def write_split(root: Path, mode: str = "RGB", suffix: str = "png") -> Path:
    for part, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("dog", "ant", "cat")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in reversed(range(count)):
                picture(100 * label + number, mode).save(folder / f"{number}.{suffix}")
    return root


def test_classes_and_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    data = load(f"folder:{write_split(tmp_path)}")
    assert data.classes == ("ant", "cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.train.shape == (3, 4, 6)
    for row, seed in enumerate((100, 101, 102, 200, 201, 202, 0, 1, 2)):
        assert np.array_equal(data.train.pixels[row].permute(1, 2, 0).numpy(), np.asarray(picture(seed)))
    assert data.note == "15 files"


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg", "JPEG", "webp"])
def test_every_format_gives_what_pillow_decodes(suffix: str, tmp_path: Path) -> None:
    data = load(f"folder:{write_split(tmp_path, suffix=suffix)}")
    expected = np.asarray(Image.open(tmp_path / f"test/cat/1.{suffix}").convert("RGB"))
    assert np.array_equal(data.test.pixels[3].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("RGBA", 3), ("P", 3), ("LA", 3)])
def test_gray_stays_one_channel_and_the_rest_is_colour(mode: str, channels: int, tmp_path: Path) -> None:
    data = load(f"folder:{write_split(tmp_path, mode)}")
    assert data.train.shape == (channels, 4, 6)
    expected = np.asarray(picture(100, mode).convert("L" if channels == 1 else "RGB")).reshape(4, 6, channels)
    assert np.array_equal(data.train.pixels[0].permute(1, 2, 0).numpy(), expected)


def test_one_colour_image_makes_all_colour(tmp_path: Path) -> None:
    write_split(tmp_path, "L")
    picture(7).save(tmp_path / "test/dog/0.png")
    data = load(f"folder:{tmp_path}")
    assert data.train.shape == (3, 4, 6)
    assert np.array_equal(data.train.pixels[0, 0].numpy(), data.train.pixels[0, 2].numpy())


def test_without_train_and_test_a_fixed_stratified_fifth_is_split_off(tmp_path: Path) -> None:
    for label, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for number in range(10):
            picture(100 * label + number).save(tmp_path / name / f"{number}.png")
    (tmp_path / "a" / "notes.txt").write_text("ignored")
    (tmp_path / "a" / ".hidden.png").write_text("ignored")
    data = load(f"folder:{tmp_path}")
    assert data.train.labels.tolist() == [0] * 8 + [1] * 8
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.note.startswith("20 files, 1 others ignored; no test part in the source")
    assert data.fingerprint == load(f"folder:{tmp_path}").fingerprint


def test_another_size_is_named_with_found_and_expected(tmp_path: Path, refusal: Refusal) -> None:
    write_split(tmp_path)
    wrong = tmp_path / "train/cat/1.png"
    picture(0, size=(6, 5)).save(wrong)
    message = refusal(lambda: load(f"folder:{tmp_path}"))
    assert f"{wrong}: found 6×5 pixels, expected 6×4 as in {tmp_path / 'train/ant/0.png'}" in message


def test_broken_images_are_named(tmp_path: Path, refusal: Refusal) -> None:
    write_split(tmp_path)
    path = tmp_path / "test/cat/1.png"
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    assert f"{path}: a damaged image" in refusal(lambda: load(f"folder:{tmp_path}"))
    path.write_bytes(b"not an image")
    assert f"{path}: not a PNG, JPEG, BMP or WebP image" in refusal(lambda: load(f"folder:{tmp_path}"))
    picture(0).save(path, format="GIF")
    assert f"{path}: not a PNG, JPEG, BMP or WebP image" in refusal(lambda: load(f"folder:{tmp_path}"))
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(path)
    assert f"{path}: found pixels of mode I;16, expected 8 bits a channel" in refusal(
        lambda: load(f"folder:{tmp_path}")
    )


@pytest.mark.parametrize("limit", [15, 5])
def test_decompression_bombs_are_refused(
    limit: int, tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns above its limit and fails above twice that; both are refused (24 pixels here)."""
    write_split(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    message = refusal(lambda: load(f"folder:{tmp_path}"))
    assert f"{tmp_path / 'train/ant/0.png'}: refused as a decompression bomb" in message
    assert f"at most {limit} pixels" in message


def test_wrong_trees_are_named(tmp_path: Path, refusal: Refusal) -> None:
    name = f"folder:{tmp_path}"
    assert "does not exist" in refusal(lambda: load(f"folder:{tmp_path / 'absent'}"))
    assert "found no class folder" in refusal(lambda: load(name))
    (tmp_path / "train/a").mkdir(parents=True)
    assert "found train without test" in refusal(lambda: load(name))
    (tmp_path / "test/a").mkdir(parents=True)
    (tmp_path / "train/a/x.txt").write_text("x")
    assert f"{tmp_path / 'train/a'}: found no image among 1 files" in refusal(lambda: load(name))
    for folder in ("train/a", "test/a", "train/b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        picture(0).save(tmp_path / folder / "0.png")
    assert "class b is in train but not in test" in refusal(lambda: load(name))
    file = tmp_path / "file"
    file.write_text("x")
    assert "not a folder" in refusal(lambda: load(f"folder:{file}"))
