"""Pictures of different sizes made one: against numpy's own triangle filter, and Pillow's parts put together."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from corral.data import load
from corral.data.loading.fit import Fit
from corral.errors import CorralError, UsageError

Refusal = Callable[..., str]
SIZES = ((40, 23), (23, 40), (9, 9), (64, 17), (5, 31))


def weights(old: int, new: int) -> np.ndarray:
    """(new, old) shares under a triangle that is as wide as the scale, at least a pixel to each side."""
    scale = old / new
    support = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    distances = np.abs(np.arange(old)[None] + 0.5 - centres[:, None]) / support
    shares = np.clip(1 - distances, 0, None)
    return shares / shares.sum(1, keepdims=True)


def by_numpy(pixels: np.ndarray, size: int, resize: int) -> np.ndarray:
    """(size, size, C) floats: the shorter side resized, the middle cut out."""
    height, width = pixels.shape[:2]
    new_height, new_width = (int(resize * side / min(height, width)) for side in (height, width))
    across = np.einsum("Xx,yxc->yXc", weights(width, new_width), pixels.astype(float))
    both = np.einsum("Yy,yxc->Yxc", weights(height, new_height), across)
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    return both[top : top + size, left : left + size]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of colour pictures of five sizes each."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("ant", "bee"):
        (folder / name).mkdir()
        for number, (width, height) in enumerate(SIZES):
            pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize(("options", "size", "resize"), [("size=12", 12, 12), ("resize=16,size=12", 12, 16)])
def test_the_shorter_side_is_resized_and_the_middle_cut_out(photos: Path, options: str, size: int, resize: int) -> None:
    data = load(f"folder:{photos}?{options}")
    assert data.train.shape == (3, size, size)
    assert data.name == f"folder:{photos}?{options}"
    files = sorted((photos / "ant").iterdir())
    expected = np.stack([by_numpy(np.asarray(Image.open(file)), size, resize) for file in files])
    found = np.concatenate([part.pixels[part.labels == 0].permute(0, 2, 3, 1) for part in (data.train, data.test)])
    # The fifth that is the test part stands last: each row is the nearest of all, and one row each.
    gaps = np.abs(found[:, None].astype(float) - expected[None]).max((2, 3, 4))
    assert sorted(gaps.argmin(1).tolist()) == list(range(len(SIZES)))
    assert gaps.min(1).max() <= 1  # Pillow rounds to a level after each of its two passes


def test_it_is_pillows_resize_and_a_crop_to_the_bit() -> None:
    generator = np.random.default_rng(1)
    for width, height in SIZES:
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        scale = 224 / 256
        size = 14
        resize = int(size / scale)
        short = min(width, height)
        across, down = int(resize * width / short), int(resize * height / short)
        resized = np.asarray(Image.fromarray(pixels).resize((across, down), Image.Resampling.BILINEAR))
        top, left = round((down - size) / 2), round((across - size) / 2)
        found = np.asarray(Fit(size, resize).applied(Image.fromarray(pixels), "x"))
        assert np.array_equal(found, resized[top : top + size, left : left + size])


def test_without_the_option_the_error_names_it(photos: Path, refusal: Refusal) -> None:
    words = refusal(lambda: load(f"folder:{photos}"))
    assert f"{photos / 'ant/1.png'}: found 23×40 pixels, expected 40×23 as in {photos / 'ant/0.png'}" in words
    assert "put ?size=N behind the folder's name to resize and crop all images to N×N" in words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("sise=64", "unknown option 'sise=64'; known are size=N, resize=N, upright, skip-damaged"),
        ("size=64,", "unknown option ''"),
        ("size=-3", "unknown option 'size=-3'"),
        ("size=0", "size must be a whole number of pixels from 1 to 8192, found 0"),
        ("size=10000", "size must be a whole number of pixels from 1 to 8192, found 10000"),
        ("resize=64", "resize goes with a size that is not larger, found resize 64 and size none"),
        ("size=64,resize=32", "found resize 32 and size 64"),
        ("size=64,size=32", "an option stands twice"),
    ],
)
def test_a_wrong_option_is_one_line(photos: Path, options: str, words: str, refusal: Refusal) -> None:
    assert words in refusal(lambda: load(f"folder:{photos}?{options}"), UsageError)


def test_a_question_mark_may_be_part_of_a_name(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "what?now").symlink_to(photos)
    assert load(f"folder:{tmp_path}/what?now?size=8").fingerprint == load(f"folder:{photos}?size=8").fingerprint
    (tmp_path / "all?").symlink_to(photos)
    with pytest.raises(CorralError, match=r"all\?/ant/1.png: found 23×40 pixels"):
        load(f"folder:{tmp_path}/all?")


def test_options_go_together_in_any_order(photos: Path, tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for file in (photos / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    whole = load(f"folder:{tmp_path}?size=8")
    (tmp_path / "ant/broken.png").write_bytes(b"no image")
    one, other = (load(f"folder:{tmp_path}?{text}") for text in ("size=8,skip-damaged", "skip-damaged,size=8"))
    assert one.name == other.name == f"folder:{tmp_path}?size=8,skip-damaged"
    assert one.fingerprint == other.fingerprint == whole.fingerprint
    assert "1 damaged and skipped" in one.note


def test_what_would_be_a_decompression_bomb_when_resized_is_refused(refusal: Refusal) -> None:
    words = refusal(lambda: Fit(4000).applied(Image.new("L", (5000, 3)), "thread.png"))
    across = math.floor(4000 * 5000 / 3)
    assert f"thread.png: 5000×3 pixels would be {across:,}×4,000 with a shorter side of 4000" in words
