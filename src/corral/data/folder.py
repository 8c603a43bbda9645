"""A data set from a tree of image files, one folder for each class."""

import tempfile
import warnings
from dataclasses import dataclass, field
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


# From so many bytes of pixels on they are decoded into a temporary file and read from there row by row.
IN_MEMORY, WRITTEN = 2 * 2**30, 2**24
# What stands behind a path to leave damaged images out, and how many of them a note names.
SKIP, NAMED = "?skip-damaged", 3
UNLABELED = "unlabeled"


def load_folder(path: Path) -> DataSet:
    """Read a tree of PNG, JPEG, BMP or WebP files, all of one size.

    `path/train/<class>/*` and `path/test/<class>/*`; or `path/<class>/*`, of which a fixed stratified fifth becomes the
    test part. `path/unlabeled/` may hold more images, at any depth, without classes. Classes and files are taken in the
    order of their names. Images are grayscale, (N, 1, H, W), where all files are; otherwise colour, (N, 3, H, W);
    transparency is dropped.

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
    trees = {name: _list_files(top) for name, top in (tops or {"all": path}).items()}
    classes = _class_names(path, trees)
    more, others = _list_unlabeled(path / UNLABELED)
    files = [file for tree, _ in trees.values() for members in tree.values() for file in members]
    reading = _Reading(skipping)
    channels, height, width = _check_headers([*files, *more], reading)
    parts = {}
    for part, (tree, _) in trees.items():
        members = [(file, label) for label, folder in enumerate(classes) for file in tree[folder]]
        pixels, kept = _pixels([file for file, _ in members], (channels, height, width), reading)
        labels = torch.tensor([members[row][1] for row in kept], dtype=torch.int64)
        missing = set(range(len(classes))) - set(labels.tolist())
        if missing:
            raise CorralError(
                f"{path}: every image of class {classes[min(missing)]} in {part} is damaged; replace them"
            )
        parts[part] = Images(pixels, labels)
    unlabeled = Images(_pixels(more, (channels, height, width), reading)[0]) if more else None
    ignored = sum(count for _, count in trees.values()) + others
    note = f"{len(files) + len(more):,} files" + (f", {ignored:,} others ignored" if ignored else "") + reading.note()
    name = f"folder:{path}{SKIP if skipping else ''}"
    if tops:
        return DataSet(name, classes, parts["train"], parts["test"], unlabeled, note)
    train, test, split = split_off_test(parts["all"], str(path))
    return DataSet(name, classes, train, test, unlabeled, f"{note}; {split}")


@dataclass
class _Reading:
    """What to do with damaged files, and which they were."""

    skipping: bool
    damaged: list[Path] = field(default_factory=list)

    def skip(self, file: Path, error: CorralError) -> None:
        """Leave a file out, or raise its error."""
        if not self.skipping:
            raise error
        if file not in self.damaged:
            self.damaged.append(file)

    def note(self) -> str:
        if not self.damaged:
            return ""
        named = ", ".join(map(str, self.damaged[:NAMED]))
        more = f" and {len(self.damaged) - NAMED:,} more" if len(self.damaged) > NAMED else ""
        return f"; {len(self.damaged):,} damaged and skipped: {named}{more}"


def _pixels(files: list[Path], shape: tuple[int, int, int], reading: _Reading) -> tuple[torch.Tensor, list[int]]:
    """(n, C, H, W) uint8 of the files that can be decoded, and their places among the files."""
    pixels = _room((len(files), *shape))
    kept: list[int] = []
    for place, file in enumerate(files):
        if file in reading.damaged:
            continue
        try:
            pixels[len(kept)] = _decode(file, shape[0])
            kept.append(place)
        except CorralError as error:
            reading.skip(file, error)
    return torch.from_numpy(pixels[: len(kept)]), kept


def _room(shape: tuple[int, ...]) -> np.ndarray:
    """An array to decode into: in memory, or in a temporary file that goes with the process."""
    size = int(np.prod(shape, dtype=np.int64))
    if size < IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as stream:  # the map keeps the file, which has no name, until it goes itself
        try:
            # Written, not left sparse: a disk that fills up later would kill the process.
            for left in range(size, 0, -WRITTEN):
                stream.write(bytes(min(left, WRITTEN)))
            stream.flush()
        except OSError as error:
            raise CorralError(
                f"{tempfile.gettempdir()}: no room for {size:,} bytes of decoded pixels ({error.strerror}); "
                "set TMPDIR to a folder that has it"
            ) from error
        return np.memmap(stream, np.uint8, "r+", shape=shape)


def _list_unlabeled(top: Path) -> tuple[list[Path], int]:
    """The image files below a folder in order of their paths, and how many other files there are."""
    if not top.is_dir():
        return [], 0
    files = sorted(file for file in top.rglob("*") if file.is_file() and not file.name.startswith("."))
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    return images, len(files) - len(images)


def _list_files(top: Path) -> tuple[dict[str, list[Path]], int]:
    """The image files by class folder, in order of name, and how many other files there are."""
    tree, others = {}, 0
    folders = (entry for entry in top.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    for folder in sorted(entry for entry in folders if entry.name != UNLABELED):
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


def _check_headers(files: list[Path], reading: _Reading) -> tuple[int, int, int]:
    """(C, H, W) of all files, from their headers alone: nothing is decoded before all sizes are known to agree."""
    expected, gray = None, True
    for file in files:
        try:
            with _open(file) as image:
                size, mode = image.size, image.mode
        except CorralError as error:
            reading.skip(file, error)
            continue
        expected = expected or size
        if size != expected:
            raise CorralError(
                f"{file}: found {size[0]}×{size[1]} pixels, expected {expected[0]}×{expected[1]} as in {files[0]}; "
                "make all images the same size"
            )
        if mode not in GRAY_MODES | COLOUR_MODES:
            raise CorralError(f"{file}: found pixels of mode {mode}, expected 8 bits a channel; convert it")
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
