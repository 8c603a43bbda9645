"""A data set from a tree of image files, one folder for each class."""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from corral.data.images import DataSet, Images
from corral.data.split import split_off_test
from corral.errors import CorralError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
GRAY_MODES = frozenset({"1", "L"})
COLOUR_MODES = frozenset({"RGB", "RGBA", "P", "PA", "LA", "La", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})


def load_folder(path: Path) -> DataSet:
    """Read a tree of PNG, JPEG, BMP or WebP files, all of one size.

    `path/train/<class>/*` and `path/test/<class>/*`; or `path/<class>/*`, of which a fixed stratified fifth becomes the
    test part. Classes and files are taken in the order of their names. Images are grayscale, (N, 1, H, W), where all
    files are; otherwise colour, (N, 3, H, W); transparency is dropped.

    Args:
        path: the top folder.

    Raises:
        CorralError: names the folder or file, what was found and what was expected.
    """
    if not path.is_dir():
        raise CorralError(f"{path}: {'not a folder' if path.exists() else 'does not exist'}; give a folder of images")
    tops = {name: path / name for name in ("train", "test") if (path / name).is_dir()}
    if len(tops) == 1:
        found, absent = ("train", "test") if "train" in tops else ("test", "train")
        raise CorralError(
            f"{path}: found {found} without {absent}; add {path / absent}, or put the classes into {path}"
        )
    trees = {name: _list_files(top) for name, top in (tops or {"all": path}).items()}
    classes = _class_names(path, trees)
    files = [file for tree, _ in trees.values() for members in tree.values() for file in members]
    channels, height, width = _check_headers(files)
    parts = {}
    for name, (tree, _) in trees.items():
        members = [(file, label) for label, folder in enumerate(classes) for file in tree[folder]]
        pixels = np.empty((len(members), channels, height, width), np.uint8)
        for row, (file, _) in enumerate(members):
            pixels[row] = _decode(file, channels)
        labels = torch.tensor([label for _, label in members])
        parts[name] = Images(torch.from_numpy(pixels), labels)
    ignored = sum(count for _, count in trees.values())
    note = f"{len(files):,} files" + (f", {ignored:,} others ignored" if ignored else "")
    if tops:
        return DataSet(f"folder:{path}", classes, parts["train"], parts["test"], note=note)
    train, test, split = split_off_test(parts["all"], str(path))
    return DataSet(f"folder:{path}", classes, train, test, note=f"{note}; {split}")


def _list_files(top: Path) -> tuple[dict[str, list[Path]], int]:
    """The image files by class folder, in order of name, and how many other files there are."""
    tree, others = {}, 0
    for folder in sorted(entry for entry in top.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        if not images:
            kinds = " ".join(sorted(SUFFIXES))
            raise CorralError(f"{folder}: found no image among {len(files)} files, expected some of {kinds}")
        tree[folder.name] = images
        others += len(files) - len(images)
    if not tree:
        raise CorralError(f"{top}: found no class folder, expected one folder of images for each class")
    return tree, others


def _class_names(path: Path, trees: dict[str, tuple[dict[str, list[Path]], int]]) -> tuple[str, ...]:
    names = [set(tree) for tree, _ in trees.values()]
    different = sorted(names[0] ^ names[-1])
    if different:
        name = different[0]
        found, absent = ("train", "test") if name in names[0] else ("test", "train")
        raise CorralError(f"{path}: class {name} is in {found} but not in {absent}; both need the same class folders")
    return tuple(sorted(names[0]))


def _check_headers(files: list[Path]) -> tuple[int, int, int]:
    """(C, H, W) of all files, from their headers alone: nothing is decoded before all sizes are known to agree."""
    expected, gray = None, True
    for file in files:
        with _open(file) as image:
            size, mode = image.size, image.mode
        expected = expected or size
        if size != expected:
            raise CorralError(
                f"{file}: found {size[0]}×{size[1]} pixels, expected {expected[0]}×{expected[1]} as in {files[0]}; "
                "make all images the same size"
            )
        if mode not in GRAY_MODES | COLOUR_MODES:
            raise CorralError(f"{file}: found pixels of mode {mode}, expected 8 bits a channel; convert it")
        gray = gray and mode in GRAY_MODES
    width, height = expected or (0, 0)
    return 1 if gray else 3, height, width


def _open(file: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(file, formats=FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise CorralError(
                f"{file}: refused as a decompression bomb: expected at most {Image.MAX_IMAGE_PIXELS:,} pixels; "
                "remove it or scale it down"
            ) from error
        except UnidentifiedImageError as error:
            raise CorralError(f"{file}: not a PNG, JPEG, BMP or WebP image; remove or replace it") from error
        except (OSError, ValueError, SyntaxError) as error:
            raise CorralError(f"{file}: cannot be read ({error}); remove or replace it") from error


def _decode(file: Path, channels: int) -> np.ndarray:
    """(C, H, W) uint8."""
    with _open(file) as image:
        try:
            # A palette with transparency goes through RGBA, as Pillow asks.
            through = image.convert("RGBA") if "transparency" in image.info else image
            content = np.asarray(through.convert("L" if channels == 1 else "RGB"))
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise CorralError(f"{file}: a damaged image ({error}); remove or replace it") from error
    return content[None] if channels == 1 else content.transpose(2, 0, 1)
