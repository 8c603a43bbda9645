import os
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from corral.data import Images, load

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


@pytest.mark.parametrize(
    "suffix", ["png", "bmp", "dib", "jpg", "JPEG", "jpe", "jfif", "webp", "tif", "tiff", "gif", "ppm", "pnm"]
)
def test_every_format_gives_what_pillow_decodes(suffix: str, tmp_path: Path) -> None:
    data = load(f"folder:{write_split(tmp_path, suffix=suffix)}")
    with Image.open(tmp_path / f"test/cat/1.{suffix}") as image:
        expected = np.asarray(image.convert("RGB"))
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
    assert data.note.startswith("20 files, 1 others ignored: a/notes.txt; no test part in the source")
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
    assert f"{path}: not a PNG, JPEG, BMP, WebP, TIFF, GIF or PPM image" in refusal(lambda: load(f"folder:{tmp_path}"))
    picture(0).save(path, format="ICO")
    assert f"{path}: not a PNG, JPEG, BMP, WebP, TIFF, GIF or PPM image" in refusal(lambda: load(f"folder:{tmp_path}"))
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


def spoil(path: Path, *, header: bool) -> Path:
    """Cut an image's end off, or write something else in its place."""
    path.write_bytes(b"no image" if header else path.read_bytes()[: path.stat().st_size // 2])
    return path


def test_damaged_images_are_left_out_by_choice_and_named(tmp_path: Path) -> None:
    write_split(tmp_path)
    whole = load(f"folder:{tmp_path}")
    first = spoil(tmp_path / "train/ant/1.png", header=True)
    second = spoil(tmp_path / "test/dog/0.png", header=False)
    for path in (tmp_path, f"{tmp_path}/"):
        data = load(f"folder:{path}?skip-damaged")
        assert data.name == f"folder:{tmp_path}?skip-damaged"  # what a run trained on it is evaluated on
        assert data.note == f"15 files; 2 damaged and skipped: {first}, {second}"
        assert data.train.labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
        assert torch.equal(data.train.pixels, whole.train.pixels[[0, 2, 3, 4, 5, 6, 7, 8]])
        assert torch.equal(data.test.pixels, whole.test.pixels[[0, 1, 2, 3, 5]])
    assert load(f"folder:{tmp_path}?skip-damaged").fingerprint == data.fingerprint


def test_a_note_names_three_damaged_images_and_counts_the_others(tmp_path: Path) -> None:
    write_split(tmp_path)
    spoiled = [spoil(tmp_path / f"train/{name}/{n}.png", header=True) for name in ("ant", "cat") for n in (0, 1)]
    note = load(f"folder:{tmp_path}?skip-damaged").note
    assert note.endswith(f"; 4 damaged and skipped: {', '.join(map(str, spoiled[:3]))} and 1 more")


def test_without_the_choice_the_first_damaged_image_is_named_and_nothing_is_loaded(
    tmp_path: Path, refusal: Refusal
) -> None:
    write_split(tmp_path)
    path = spoil(tmp_path / "train/cat/2.png", header=False)
    words = refusal(lambda: load(f"folder:{tmp_path}"))
    assert words.startswith(f"{path}: a damaged image")
    assert words.endswith("or put ?skip-damaged behind the folder's name to leave such files out")


def test_a_class_of_damaged_images_alone_is_no_class(tmp_path: Path, refusal: Refusal) -> None:
    write_split(tmp_path)
    for number in range(3):
        spoil(tmp_path / f"train/cat/{number}.png", header=False)
    assert "every image of class cat in train is damaged" in refusal(lambda: load(f"folder:{tmp_path}?skip-damaged"))
    for path in tmp_path.rglob("*.png"):
        spoil(path, header=True)
    assert "every image is damaged" in refusal(lambda: load(f"folder:{tmp_path}?skip-damaged"))


def test_unlabeled_images_are_found_at_any_depth(tmp_path: Path) -> None:
    write_split(tmp_path)
    (tmp_path / "unlabeled/2024").mkdir(parents=True)
    picture(501).save(tmp_path / "unlabeled/b.png")
    picture(500).save(tmp_path / "unlabeled/2024/a.png")
    (tmp_path / "unlabeled/list.txt").write_text("b")
    data = load(f"folder:{tmp_path}")
    assert data.unlabeled is not None
    assert data.unlabeled.labels is None
    for row, seed in enumerate((500, 501)):
        assert np.array_equal(data.unlabeled.pixels[row].permute(1, 2, 0).numpy(), np.asarray(picture(seed)))
    assert data.note == "17 files, 1 others ignored: unlabeled/list.txt"
    for path in (tmp_path / "train", tmp_path / "test"):  # classes at the top: their folder is none of them
        path.rename(tmp_path.parent / f"{tmp_path.name}-{path.name}")
    for name in ("ant", "cat"):
        (tmp_path / name).mkdir()
        for number in range(5):
            picture(number).save(tmp_path / name / f"{number}.png")
    data = load(f"folder:{tmp_path}")
    assert data.classes == ("ant", "cat")
    assert data.unlabeled is not None
    assert len(data.unlabeled) == 2


def test_pixels_beyond_memory_are_decoded_into_a_file_that_goes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(tmp_path)
    inside = load(f"folder:{tmp_path}")
    monkeypatch.setattr("corral.data.loading.memmap.IN_MEMORY", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(tmp_path.iterdir())
    outside = load(f"folder:{tmp_path}")
    assert sorted(tmp_path.iterdir()) == before  # no name is left behind
    assert outside.fingerprint == inside.fingerprint
    assert torch.equal(outside.train.float(torch.tensor([8, 0])), inside.train.float(torch.tensor([8, 0])))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to stand for a full disk")
def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal) -> None:
    write_split(tmp_path)
    monkeypatch.setattr("corral.data.loading.memmap.IN_MEMORY", 1)
    monkeypatch.setattr("tempfile.TemporaryFile", partial(open, "/dev/full", "r+b", buffering=0))
    words = refusal(lambda: load(f"folder:{tmp_path}"))
    assert "no room for 648 bytes of decoded pixels (No space left on device); set TMPDIR" in words


def test_what_is_left_aside_is_counted_or_refused(tmp_path: Path, refusal: Refusal) -> None:
    write_split(tmp_path)
    (tmp_path / "val/ant").mkdir(parents=True)
    picture(0).save(tmp_path / "loose.png")
    assert load(f"folder:{tmp_path}").note == "15 files, 2 others ignored: loose.png, val"
    deeper = tmp_path / "train/ant/more"
    deeper.mkdir()
    picture(0).save(deeper / "a.png")
    assert f"{deeper}: a folder inside a class folder" in refusal(lambda: load(f"folder:{tmp_path}"))


def test_unlabeled_may_be_a_class_of_a_part(tmp_path: Path) -> None:
    write_split(tmp_path)
    for part in ("train", "test"):
        (tmp_path / part / "dog").rename(tmp_path / part / "unlabeled")
    data = load(f"folder:{tmp_path}")
    assert data.classes == ("ant", "cat", "unlabeled")
    assert data.unlabeled is None


def test_links_below_unlabeled_are_followed_once_and_hidden_folders_are_not(tmp_path: Path) -> None:
    write_split(tmp_path / "tree")
    (tmp_path / "tree/unlabeled/.hidden").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    picture(1).save(tmp_path / "elsewhere/a.png")
    picture(2).save(tmp_path / "tree/unlabeled/.hidden/a.png")
    (tmp_path / "tree/unlabeled/there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "tree/unlabeled")
    data = load(f"folder:{tmp_path / 'tree'}")
    assert data.unlabeled is not None
    assert len(data.unlabeled) == 1


def test_a_damaged_image_decides_nothing(tmp_path: Path, refusal: Refusal) -> None:
    """Neither the size of all nor that all are in colour, where it is left out."""
    write_split(tmp_path, mode="L")
    whole = load(f"folder:{tmp_path}")
    picture(0, size=(9, 9)).save(tmp_path / "train/ant/0.png")
    spoil(tmp_path / "train/ant/0.png", header=False)
    picture(0).save(tmp_path / "test/cat/0.png")
    spoil(tmp_path / "test/cat/0.png", header=False)
    data = load(f"folder:{tmp_path}?skip-damaged")
    assert data.train.shape == (1, 4, 6)
    assert torch.equal(data.train.pixels, whole.train.pixels[1:])
    odd = tmp_path / "train/cat/0.png"
    picture(0, "L", size=(9, 9)).save(odd)
    data = load(f"folder:{tmp_path}?skip-damaged")
    assert torch.equal(data.train.pixels, whole.train.pixels[[1, 2, 4, 5, 6, 7, 8]])
    assert str(odd) in data.note


def test_unlabeled_images_that_are_all_damaged_are_named(tmp_path: Path, refusal: Refusal) -> None:
    write_split(tmp_path)
    (tmp_path / "unlabeled").mkdir()
    picture(0).save(tmp_path / "unlabeled/a.png")
    spoil(tmp_path / "unlabeled/a.png", header=False)
    assert "unlabeled: every image is damaged" in refusal(lambda: load(f"folder:{tmp_path}?skip-damaged"))


def test_sixteen_bits_a_channel_are_refused(tmp_path: Path, refusal: Refusal) -> None:
    """Pillow would keep the upper 8 of an RGB file."""
    write_split(tmp_path)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(6 * 3 * 2) for _ in range(4)))
    path = tmp_path / "train/ant/0.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    assert f"{path}: found 16 bits, expected 8 bits a channel; convert it" in refusal(
        lambda: load(f"folder:{tmp_path}")
    )
    assert len(load(f"folder:{tmp_path}?skip-damaged").train) == 8
    path.unlink()
    for number, (suffix, mode) in enumerate((("ppm", b"P6"), ("pgm", b"P5"))):
        deep = tmp_path / f"train/ant/0.{suffix}"
        deep.write_bytes(mode + b" 6 4 65535\n" + bytes(6 * 4 * 2 * 3))
        words = refusal(lambda: load(f"folder:{tmp_path}"))
        assert f"{deep}: found {('16 bits', 'pixels of mode I')[number]}, expected 8 bits a channel" in words
        deep.unlink()


@pytest.mark.parametrize(("suffix", "options"), [("gif", {}), ("png", {}), ("webp", {"lossless": True}), ("tiff", {})])
def test_an_animation_loses_no_frame_in_silence(
    suffix: str, options: dict[str, Any], tmp_path: Path, refusal: Refusal
) -> None:
    write_split(tmp_path)
    path = tmp_path / f"train/ant/moving.{suffix}"
    picture(1).save(path, save_all=True, append_images=[picture(2), picture(3)], **options)
    words = refusal(lambda: load(f"folder:{tmp_path}"))
    assert f"{path}: found 3 pictures in one file (an animation or pages), expected one still image" in words
    data = load(f"folder:{tmp_path}?skip-damaged")
    assert data.note == f"16 files; 1 damaged and skipped: {path}"


def test_previews_behind_a_photograph_are_no_animation(tmp_path: Path) -> None:
    write_split(tmp_path)
    path = tmp_path / "train/ant/0.jpg"
    picture(1).save(path, format="MPO", save_all=True, append_images=[picture(2)])
    row = load(f"folder:{tmp_path}").train.pixels[0]
    with Image.open(path) as photograph:
        assert np.array_equal(row.permute(1, 2, 0).numpy(), np.asarray(photograph))


def test_one_odd_image_decides_nothing_wherever_it_stands(tmp_path: Path, refusal: Refusal) -> None:
    """Also the first of all, whose size the others would have to have."""
    write_split(tmp_path)
    whole = load(f"folder:{tmp_path}")
    odd = tmp_path / "train/ant/0.png"
    picture(0, size=(7, 4)).save(odd)
    assert "found 6×4 pixels, expected 7×4" in refusal(lambda: load(f"folder:{tmp_path}"))
    data = load(f"folder:{tmp_path}?skip-damaged")
    assert torch.equal(data.train.pixels, whole.train.pixels[1:])
    assert data.note == f"15 files; 1 damaged and skipped: {odd}"


def test_what_systems_leave_in_folders_is_no_part_of_the_data(tmp_path: Path) -> None:
    write_split(tmp_path)
    (tmp_path / "unlabeled").mkdir()
    picture(9).save(tmp_path / "unlabeled/0.png")
    whole = load(f"folder:{tmp_path}")
    for place in (".", "train", "test", "train/ant", "unlabeled"):
        for clutter in ("__MACOSX", "@eaDir", ".git", ".thumbs"):
            (tmp_path / place / clutter / "ant").mkdir(parents=True)
            picture(0, size=(9, 9)).save(tmp_path / place / clutter / "ant/x.png")
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"):
            (tmp_path / place / name).write_bytes(b"x")
    data = load(f"folder:{tmp_path}")
    assert (data.fingerprint, data.unlabeled_fingerprint) == (whole.fingerprint, whole.unlabeled_fingerprint)
    assert data.note == whole.note == "16 files"


def test_what_is_no_image_is_named_up_to_three(tmp_path: Path) -> None:
    write_split(tmp_path)
    for number in range(5):
        (tmp_path / f"test/dog/{number}.heic").write_bytes(b"x")
    names = ", ".join(f"test/dog/{number}.heic" for number in range(3))
    assert load(f"folder:{tmp_path}").note == f"15 files, 5 others ignored: {names} and 2 more"


def test_a_class_whose_name_is_no_text_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    write_split(tmp_path)
    for part in ("train", "test"):
        try:
            os.rename(tmp_path / part / "dog", os.path.join(os.fsencode(tmp_path / part), b"d\xffg"))
        except OSError:
            pytest.skip("this file system has no such names")
    assert "has a name that is not UTF-8; rename it" in refusal(lambda: load(f"folder:{tmp_path}"))


def test_parts_beyond_memory_are_copied_into_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth that is split off, validation images and subsets: rows of a map, in any order, by mask or index."""
    pixels = torch.arange(7 * 3 * 2 * 2).reshape(7, 3, 2, 2).to(torch.uint8)
    labels = torch.arange(7)
    monkeypatch.setattr("corral.data.loading.memmap.ROWS", 3)
    for rows in (torch.tensor([6, 0, 3, 3, 1]), torch.arange(7) > 2):
        expected = Images(pixels, labels).take(rows)
        with monkeypatch.context() as patch:
            patch.setattr("corral.data.loading.memmap.IN_MEMORY", 1)
            patch.setattr("tempfile.tempdir", str(tmp_path))
            patch.setattr("corral.data.loading.memmap.np.memmap", lambda *a, **k: np.full(k["shape"], 7, a[1]))
            found = Images(pixels, labels).take(rows)
        assert torch.equal(found.pixels, expected.pixels)
        assert torch.equal(found.labels, expected.labels)


def test_a_pipe_is_no_image_and_a_link_to_nowhere_is_named(tmp_path: Path, refusal: Refusal) -> None:
    write_split(tmp_path)
    os.mkfifo(tmp_path / "train/ant/pipe.png")
    assert load(f"folder:{tmp_path}").note == "15 files, 1 others ignored: train/ant/pipe.png"
    (tmp_path / "train/ant/gone.png").symlink_to(tmp_path / "nowhere.png")
    assert f"{tmp_path / 'train/ant/gone.png'}: cannot be read" in refusal(lambda: load(f"folder:{tmp_path}"))
