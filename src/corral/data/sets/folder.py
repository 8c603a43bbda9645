"""A data set from a tree of image files, one folder for each class."""

import os
from pathlib import Path

import torch

from corral.data.images import DataSet, Images
from corral.data.loading.pictures import SKIP, WORDS, Reading, common_shape, decoded, named, suffixes
from corral.data.registry import register_path_data
from corral.data.split import split_off_test
from corral.errors import CorralError
from corral.files import as_text

UNLABELED = "unlabeled"
# What systems and archives leave in folders, beside whatever begins with a dot.
CLUTTER = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
    | {"thumbs.db", "ehthumbs.db", "desktop.ini"}
)


@register_path_data("folder", description="a tree of image files, one folder for each class")
def load_folder(path: Path) -> DataSet:
    """Read a tree of PNG, JPEG, BMP, WebP, TIFF, GIF, PPM, PGM or PBM files of one still image each, all of one size.

    `path/train/<class>/*` and `path/test/<class>/*`; or `path/<class>/*`, of which a fixed stratified fifth becomes the
    test part. `path/unlabeled/` may hold more images, at any depth, without classes. Classes and files are taken in the
    order of their names. Images are grayscale, (N, 1, H, W), where all files are; otherwise colour, (N, 3, H, W);
    transparency is dropped. Pixels are taken as they are stored: an orientation noted beside them (EXIF) turns nothing.
    Hidden files and what systems leave in folders, such as `__MACOSX` or `Thumbs.db`, are no part of the data; the note
    counts and names what else is no image.

    From 2 GiB of pixels on a part is decoded into a temporary file (TMPDIR decides where), which goes with the process,
    and its rows are read where they are taken: a tree may be larger than memory.

    Args:
        path: the top folder; with "?skip-damaged" at its end files that are no image or a damaged one, of another size
            than most, of 16 bits or of several pictures are left out, and the note names them. Otherwise the first one
            is an error.

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
    classes = _class_folders(path, trees)
    first, _ = next(iter(trees.values()))
    texts = tuple(Path(as_text(first[folder][0].parent)).name for folder in classes)  # before any image is decoded
    more, others = _list_unlabeled(path / UNLABELED)
    files = [file for tree, _ in trees.values() for members in tree.values() for file in members]
    reading = Reading(skipping)
    shape = common_shape([*files, *more], reading)
    parts = {}
    for part, (tree, _) in trees.items():
        members = [(file, label) for label, folder in enumerate(classes) for file in tree[folder]]
        pixels, indices = decoded([file for file, _ in members], shape, reading)
        labels = torch.tensor([members[index][1] for index in indices], dtype=torch.int64)
        missing = set(range(len(classes))) - set(labels.tolist())
        if missing:
            raise CorralError(
                f"{path}: every image of class {classes[min(missing)]} in {part} is damaged; replace them"
            )
        parts[part] = Images(pixels, labels)
    unlabeled = Images(decoded(more, shape, reading)[0]) if more else None
    if unlabeled is not None and not len(unlabeled):
        raise CorralError(f"{path / UNLABELED}: every image is damaged; replace them")
    ignored = [file for _, left in trees.values() for file in left] + others
    if tops:
        ignored += [entry for entry in _entries(path) if entry not in (*tops.values(), path / UNLABELED)]
    words = [str(file.relative_to(path)) for file in ignored]
    note = f"{len(files) + len(more):,} files" + (f", {len(words):,} others ignored: {named(words)}" if words else "")
    note += reading.note()
    name = f"folder:{as_text(path)}{SKIP if skipping else ''}"
    if tops:
        return DataSet(name, texts, parts["train"], parts["test"], unlabeled, note)
    train, test, split = split_off_test(parts["all"], str(path))
    return DataSet(name, texts, train, test, unlabeled, f"{note}; {split}", split_off=True)


def _is_data(name: str) -> bool:
    """Whether a file or folder of this name was put there by a person."""
    return not name.startswith(".") and name.lower() not in CLUTTER


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, in order of name."""
    return sorted(entry for entry in folder.iterdir() if _is_data(entry.name))


def _is_image(file: Path) -> bool:
    """By its name. A broken link is one, so that opening it names it; a pipe is none: opening it would hang."""
    return file.suffix.lower() in suffixes() and (file.is_file() or not file.exists())


def _list_unlabeled(top: Path) -> tuple[list[Path], list[Path]]:
    """The image files below a folder in order of their paths, and the other files."""
    files: list[Path] = []
    walked: set[str] = set()
    for folder, below, names in os.walk(top, followlinks=True) if top.is_dir() else ():
        real = os.path.realpath(folder)
        # A link may lead back to where it lies.
        below[:] = [] if real in walked else filter(_is_data, below)
        if real not in walked:
            files += [Path(folder, name) for name in filter(_is_data, names)]
        walked.add(real)
    return _images_of(sorted(files))


def _images_of(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """The images among some files, and the others."""
    images = [file for file in files if _is_image(file)]
    taken = set(images)
    return images, [file for file in files if file not in taken]


def _list_files(top: Path, *, without: str | None = None) -> tuple[dict[str, list[Path]], list[Path]]:
    """The image files by class folder below `top`, in order of name, and the other files."""
    tree: dict[str, list[Path]] = {}
    entries = _entries(top)
    others = [entry for entry in entries if not entry.is_dir()]
    for folder in (entry for entry in entries if entry.is_dir() and entry.name != without):
        inside = _entries(folder)
        deeper = next((entry for entry in inside if entry.is_dir()), None)
        if deeper is not None:
            raise CorralError(f"{deeper}: a folder inside a class folder; put its images into {folder}, or elsewhere")
        images, left = _images_of(inside)
        if not images:
            found = f" ({named([file.name for file in left])})" if left else ""
            raise CorralError(f"{folder}: found no image among {len(inside)} files{found}, expected a {WORDS}")
        tree[folder.name] = images
        others += left
    if not tree:
        raise CorralError(f"{top}: found no class folder, expected one folder of images for each class")
    return tree, others


def _class_folders(path: Path, trees: dict[str, tuple[dict[str, list[Path]], list[Path]]]) -> tuple[str, ...]:
    names = [set(tree) for tree, _ in trees.values()]
    different = sorted(names[0] ^ names[-1])
    if different:
        name = different[0]
        found, absent = ("train", "test") if name in names[0] else ("test", "train")
        raise CorralError(f"{path}: class {name} is in {found} but not in {absent}; both need the same class folders")
    return tuple(sorted(names[0]))
