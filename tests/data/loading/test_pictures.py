"""Every kind of pixels that a picture may have, by numpy's own arithmetic; and the parts of a tree."""

import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from corral.data import DataSet, load
from corral.data.loading.items import read_items
from corral.errors import CorralError

Refusal = Callable[..., str]
COLOURS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
GRAY = COLOURS[..., 0]
ALPHA = COLOURS[..., 1]


def loaded(folder: Path, image: Image.Image, suffix: str = "png", options: str = "", **save: object) -> np.ndarray:
    """(H, W, C) levels of the first training image of a tree whose pictures are all this one."""
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            image.save(folder / part / name / f"0.{suffix}", **save)
    data = load(f"folder:{folder}{options}")
    return data.train.pixels[0].permute(1, 2, 0).numpy()


def test_gray_bilevel_and_colour_are_taken_as_they_are(tmp_path: Path) -> None:
    assert np.array_equal(loaded(tmp_path / "L", Image.fromarray(GRAY))[..., 0], GRAY)
    black = GRAY > 127
    assert np.array_equal(loaded(tmp_path / "1", Image.fromarray(black))[..., 0], 255 * black)
    assert np.array_equal(loaded(tmp_path / "RGB", Image.fromarray(COLOURS)), COLOURS)


def test_transparency_is_dropped_and_the_colour_below_it_stays(tmp_path: Path) -> None:
    assert np.array_equal(loaded(tmp_path / "RGBA", Image.fromarray(np.dstack([COLOURS, ALPHA]))), COLOURS)
    with_alpha = Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(ALPHA)])
    assert np.array_equal(loaded(tmp_path / "LA", with_alpha), np.dstack([GRAY] * 3))


@pytest.mark.parametrize("transparent", [{}, {"transparency": 3}])
def test_a_palette_becomes_its_colours(tmp_path: Path, transparent: dict[str, int]) -> None:
    palette = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.frombytes("P", (6, 4), GRAY.tobytes())
    image.putpalette(palette.tobytes())
    assert np.array_equal(loaded(tmp_path, image, **transparent), palette[GRAY])


def test_cmyk_becomes_rgb_without_a_colour_profile(tmp_path: Path) -> None:
    inks = np.random.default_rng(2).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    found = loaded(tmp_path, Image.frombytes("CMYK", (6, 4), inks.tobytes()), "tif")
    expected = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (Image.fromarray(GRAY.astype(np.uint16) * 257), "pixels of mode I;16"),
        (Image.fromarray(GRAY.astype(np.int32)), "pixels of mode I"),
        (Image.fromarray(GRAY.astype(np.float32) / 255), "pixels of mode F"),
    ],
)
def test_more_than_8_bits_a_channel_is_refused(
    tmp_path: Path, image: Image.Image, found: str, refusal: Refusal
) -> None:
    words = refusal(lambda: loaded(tmp_path, image, "tif"))
    assert f"{tmp_path / 'train/a/0.tif'}: found {found}, expected 8 bits a channel; convert it" in words


# What each EXIF orientation asks for: how (H, W, C) pixels as stored are to be shown.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_an_orientation_is_ignored_and_counted_or_applied_by_choice(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif, **({"lossless": True} if suffix == "webp" else {})}
    image = Image.fromarray(COLOURS)
    assert np.array_equal(loaded(tmp_path, image, suffix, **options), COLOURS)
    note = load(f"folder:{tmp_path}").note
    assert ("4 orientations (EXIF) ignored, ?upright turns" in note) == (orientation != 1)
    turned = load(f"folder:{tmp_path}?upright")
    assert np.array_equal(turned.train.pixels[0].permute(1, 2, 0).numpy(), TURNS[orientation](COLOURS))
    assert "ignored" not in turned.note
    square = load(f"folder:{tmp_path}?upright,size=4").train.pixels[0].permute(1, 2, 0).numpy()
    turned_first = TURNS[orientation](COLOURS)
    assert np.array_equal(square, turned_first[1:5] if orientation > 4 else turned_first[:, 1:5])


def test_what_pillow_turns_by_itself_is_not_turned_twice(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for options in ("", "?upright"):
        found = loaded(tmp_path, Image.fromarray(COLOURS), "tif", options, exif=exif)
        assert np.array_equal(found, np.rot90(COLOURS, -1))


def write_tree(folder: Path, **parts: int) -> Path:
    """Two classes in each part, with as many pictures of the part's own level as are given."""
    for level, (part, count) in enumerate(parts.items(), 1):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("L", (3, 2), 10 * level + number).save(folder / part / name / f"{number}.png")
    return folder


def levels(data: DataSet) -> tuple[list[int], list[int]]:
    return tuple(part.pixels[:, 0, 0, 0].tolist() for part in (data.train, data.test))


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_the_test_part_has_the_names_that_the_field_gives_it(tmp_path: Path, name: str, refusal: Refusal) -> None:
    write_tree(tmp_path, train=2, **{name: 1})
    data = load(f"folder:{tmp_path}")
    assert levels(data) == ([10, 11, 10, 11], [20, 20])
    assert data.note == "6 files"
    (tmp_path / name / "c").mkdir()
    Image.new("L", (3, 2)).save(tmp_path / name / "c/0.png")
    assert f"class c is in {name} but not in train" in refusal(lambda: load(f"folder:{tmp_path}"))


def test_of_several_parts_test_is_the_test_part_and_what_is_left_is_counted(tmp_path: Path) -> None:
    write_tree(tmp_path, train=2, val=3, test=1)
    data = load(f"folder:{tmp_path}")
    assert levels(data) == ([10, 11, 10, 11], [30, 30])
    assert data.note == "6 files, 1 others ignored: val; images of val ignored: 6, test is the test part"


def test_a_test_part_without_classes_as_imagenets_is_left_for_val(tmp_path: Path) -> None:
    write_tree(tmp_path, train=2, val=1)
    (tmp_path / "test").mkdir()
    Image.new("L", (3, 2)).save(tmp_path / "test/0.png")
    data = load(f"folder:{tmp_path}")
    assert levels(data) == ([10, 11, 10, 11], [20, 20])
    assert data.note == "6 files, 1 others ignored: test; images of test ignored: 1, val is the test part"


def test_a_part_alone_is_still_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, test=1, val=1)
    with pytest.raises(CorralError, match="found test without train"):
        load(f"folder:{tmp_path}")


def taken(image: Image.Image) -> np.ndarray:
    """(H, W, C) levels of a picture given as an object, as floats."""
    return read_items("own", [(image, 0)])[0][0].permute(1, 2, 0).numpy().astype(float)  # a list has items too


def test_other_colour_spaces_become_rgb() -> None:
    """By the formulas of JFIF and of HSV, and the lightness of a gray in CIELAB."""
    y, cb, cr = (COLOURS[..., channel].astype(float) for channel in range(3))
    of_jfif = [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    found = taken(Image.frombytes("YCbCr", (6, 4), COLOURS.tobytes()))
    assert np.abs(found - np.clip(np.stack(of_jfif, -1), 0, 255)).max() <= 1.5
    found = taken(Image.frombytes("HSV", (6, 4), COLOURS.tobytes()))
    expected = [[colorsys.hsv_to_rgb(*(pixel / 255)) for pixel in row] for row in COLOURS]
    assert np.abs(found - 255 * np.array(expected)).max() <= 3
    level = 100 / 255 * 119  # L* of 119 levels of 255
    linear = ((level + 16) / 116) ** 3
    gray = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    found = taken(Image.frombytes("LAB", (6, 4), bytes([119, 0, 0]) * 24))
    assert np.abs(found - gray).max() <= 2
