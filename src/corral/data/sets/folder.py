"""A data set from a tree of image files, one folder for each class."""

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from corral.data.images import DataSet, Images
from corral.data.loading.memmap import allocate
from corral.data.registry import register_path_data
from corral.data.split import split_off_test
from corral.errors import CorralError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
GRAY_MODES = frozenset({"1", "L"})
COLOUR_MODES = frozenset({"RGB", "RGBA", "P", "PA", "LA", "La", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})

# At the end of a path: leave damaged images out; and how many of them a note names.
SKIP, NAMED = "?skip-damaged", 3
REMEDY = f"remove or replace it, or put {SKIP} behind the folder's name to leave such files out"
UNLABELED = "unlabeled"


@register_path_data("folder", description="a tree of image files, one folder for each class")
def load_folder(path: Path) -> DataSet:
    """Read a tree of PNG, JPEG, BMP or WebP files, all of one size.

    `path/train/<class>/*` and `path/test/<class>/*`; or `path/<class>/*`, of which a fixed stratified fifth becomes the
    test part. `path/unlabeled/` may hold more images, at any depth, without classes. Classes and files are taken in the
    order of their names. Images are grayscale, (N, 1, H, W), where all files are; otherwise colour, (N, 3, H, W);
    transparency is dropped. Pixels are taken as they are stored: an orientation noted beside them (EXIF) turns nothing.

    From 2 GiB of pixels on a part is decoded into a temporary file (TMPDIR decides where), which goes with the process,
    and its rows are read where they are taken: a tree may be larger than memory.

    Args:
        path: the top folder; with "?skip-damaged" at its end files that are no image or a damaged one are left out, and
            the note names them. Otherwise the first one is an error.

    Raises:
        CorralError: names the folder or file, what was found and what was expected; or the disk is full.
    """
    skipping = str(path).endswith(SKIP)
    path = Path(str(path).removesuffix(SKIP))
    if not path.is_dir():
        raise CorralError(f"{path}: {'not a folder' if path.exists() else 'does not exist'}; give a folder of images")
    tops = {name: path / name for name in ("train", "test") if (path / name).is_dir()}
    if len(tops) == 1:
        found, absent = ("train", "test") if "train" in tops else ("test", "train")
        raise CorralError(
            f"{path}: found {found} without {absent}; add {path / absent}, or put the classes into {path}"
        )
    trees = {name: _list_files(top) for name, top in tops.items()} or {"all": _list_files(path, without=UNLABELED)}
    classes = _class_names(path, trees)
    more, others = _list_unlabeled(path / UNLABELED)
    files = [file for tree, _ in trees.values() for members in tree.values() for file in members]
    reading = _Reading(skipping)
    shape = _check_headers([*files, *more], reading)
    parts = {}
    for part, (tree, _) in trees.items():
        members = [(file, label) for label, folder in enumerate(classes) for file in tree[folder]]
        pixels, indices = _pixels([file for file, _ in members], shape, reading)
        labels = torch.tensor([members[index][1] for index in indices], dtype=torch.int64)
        missing = set(range(len(classes))) - set(labels.tolist())
        if missing:
            raise CorralError(
                f"{path}: every image of class {classes[min(missing)]} in {part} is damaged; replace them"
            )
        parts[part] = Images(pixels, labels)
    unlabeled = Images(_pixels(more, shape, reading)[0]) if more else None
    if unlabeled is not None and not len(unlabeled):
        raise CorralError(f"{path / UNLABELED}: every image is damaged; replace them")
    ignored = sum(count for _, count in trees.values()) + others
    if tops:
        ignored += sum(not entry.name.startswith(".") for entry in path.iterdir()) - len(tops)
        ignored -= (path / UNLABELED).is_dir()
    note = f"{len(files) + len(more):,} files" + (f", {ignored:,} others ignored" if ignored else "") + reading.note()
    name = f"folder:{path}{SKIP if skipping else ''}"
    if tops:
        return DataSet(name, classes, parts["train"], parts["test"], unlabeled, note)
    train, test, split = split_off_test(parts["all"], str(path))
    return DataSet(name, classes, train, test, unlabeled, f"{note}; {split}", split_off=True)


@dataclass
class _Reading:
    """What to do with damaged files, and which they were."""

    skipping: bool
    damaged: dict[Path, None] = field(default_factory=dict)

    def skip(self, file: Path, error: CorralError) -> None:
        """Leave a file out, or raise its error."""
        if not self.skipping:
            raise error
        self.damaged[file] = None

    def note(self) -> str:
        if not self.damaged:
            return ""
        named = ", ".join(map(str, list(self.damaged)[:NAMED]))
        more = f" and {len(self.damaged) - NAMED:,} more" if len(self.damaged) > NAMED else ""
        return f"; {len(self.damaged):,} damaged and skipped: {named}{more}"


def _pixels(files: list[Path], shape: tuple[int, int, int], reading: _Reading) -> tuple[torch.Tensor, list[int]]:
    """(n, C, H, W) uint8 of the files that can be decoded, and their indices."""
    pixels = allocate((len(files), *shape))
    indices: list[int] = []
    for index, file in enumerate(files):
        if file in reading.damaged:
            continue
        try:
            pixels[len(indices)] = _decode(file, shape[0])
            indices.append(index)
        except CorralError as error:
            reading.skip(file, error)
    return torch.from_numpy(pixels[: len(indices)]), indices


def _is_image(file: Path) -> bool:
    """By its name. A broken link is one, so that opening it names it; a pipe is none: opening it would hang."""
    return file.suffix.lower() in SUFFIXES and (file.is_file() or not file.exists())


def _list_unlabeled(top: Path) -> tuple[list[Path], int]:
    """The image files below a folder in order of their paths, and how many other files there are."""
    files: list[Path] = []
    walked: set[str] = set()
    for folder, below, names in os.walk(top, followlinks=True) if top.is_dir() else ():
        real = os.path.realpath(folder)
        # A link may lead back to where it lies.
        below[:] = [] if real in walked else [name for name in below if not name.startswith(".")]
        if real not in walked:
            files += [Path(folder, name) for name in names if not name.startswith(".")]
        walked.add(real)
    images = sorted(filter(_is_image, files))
    return images, len(files) - len(images)


def _list_files(top: Path, *, without: str | None = None) -> tuple[dict[str, list[Path]], int]:
    """The image files by class folder below `top`, in order of name, and how many other files there are."""
    tree: dict[str, list[Path]] = {}
    entries = sorted(entry for entry in top.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir() and entry.name != without]
    others = sum(not entry.is_dir() for entry in entries)
    for folder in folders:
        inside = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        deeper = next((entry for entry in inside if entry.is_dir()), None)
        if deeper is not None:
            raise CorralError(f"{deeper}: a folder inside a class folder; put its images into {folder}, or elsewhere")
        images = list(filter(_is_image, inside))
        if not images:
            kinds = " ".join(sorted(SUFFIXES))
            raise CorralError(f"{folder}: found no image among {len(inside)} files, expected some of {kinds}")
        tree[folder.name] = images
        others += len(inside) - len(images)
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
    for name in sorted(names[0]):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise CorralError(f"{path}: class folder {name!r} has a name that is not UTF-8; rename it") from error
    return tuple(sorted(names[0]))


def _check_headers(files: list[Path], reading: _Reading) -> tuple[int, int, int]:
    """(C, H, W) of all files, from their headers: nothing is decoded before all sizes are known to agree.

    Where damaged files are left out, those that decide the shape (the first, one of another size, one in colour among
    gray ones) are decoded first.
    """
    expected, gray, reference = None, True, None
    for file in files:
        try:
            with _open(file) as image:
                size, mode = image.size, image.mode
                # 16 bits a channel, of which Pillow would keep the upper 8.
                deep = any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
            if reading.skipping and (size != expected or (gray and mode not in GRAY_MODES)):
                _decode(file, 3)
        except CorralError as error:
            reading.skip(file, error)
            continue
        expected, reference = expected or size, reference or file
        if size != expected:
            raise CorralError(
                f"{file}: found {size[0]}×{size[1]} pixels, expected {expected[0]}×{expected[1]} as in {reference}; "
                "make all images the same size"
            )
        if mode not in GRAY_MODES | COLOUR_MODES or deep:
            found = f"pixels of mode {mode}" if mode not in GRAY_MODES | COLOUR_MODES else "16 bits"
            raise CorralError(f"{file}: found {found}, expected 8 bits a channel; convert it")
        gray = gray and mode in GRAY_MODES
    if expected is None:
        raise CorralError(f"{files[0].parent}: every image is damaged; replace them")
    width, height = expected
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
            raise CorralError(f"{file}: not a PNG, JPEG, BMP or WebP image; {REMEDY}") from error
        except (OSError, ValueError, SyntaxError) as error:
            raise CorralError(f"{file}: cannot be read ({error}); {REMEDY}") from error


def _decode(file: Path, channels: int) -> np.ndarray:
    """(C, H, W) uint8."""
    with _open(file) as image:
        try:
            # A palette with transparency goes through RGBA, as Pillow asks.
            through = image.convert("RGBA") if "transparency" in image.info else image
            content = np.asarray(through.convert("L" if channels == 1 else "RGB"))
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise CorralError(f"{file}: a damaged image ({error}); {REMEDY}") from error
    return content[None] if channels == 1 else content.transpose(2, 0, 1)
