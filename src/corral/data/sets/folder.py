"""A data set from a tree of image files, one folder for each class."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from corral.data.images import DataSet, Images, readable
from corral.data.loading.files import PictureFiles, surveyed
from corral.data.loading.fit import Fit
from corral.data.loading.pictures import SKIP, WORDS, Reading, common_shape, decoded, named, suffixes, typical_bytes
from corral.data.memory import too_many
from corral.data.registry import register_path_data
from corral.data.split import TEST_PARTS, split_off_test
from corral.data.streamed import Reader, Streamed
from corral.errors import CorralError, UsageError
from corral.files import as_text

UNLABELED = "unlabeled"
# What may stand behind the folder's name, after a "?" and separated by commas.
OPTION, OPTIONS = re.compile(r"skip-damaged|upright|(size|resize)=\d{1,9}"), "size=N, resize=N, upright, skip-damaged"
# What systems and archives leave in folders, beside whatever begins with a dot.
CLUTTER = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
    | {"thumbs.db", "ehthumbs.db", "desktop.ini"}
)


@register_path_data("folder", description="a tree of image files, one folder for each class")
def load_folder(path: Path) -> DataSet:
    """Read a tree of PNG, JPEG, BMP, WebP, TIFF, GIF, PPM, PGM or PBM files of one still image each.

    `path/train/<class>/*` and `path/test/<class>/*`; or `path/<class>/*`, of which a fixed stratified fifth becomes the
    test part. The test part may be called `val`, `valid` or `validation`; where there are several, `test` is the test
    part if it has class folders, and the note counts the images of the others, which are not read. `path/unlabeled/`
    may hold more images, at any depth, without classes. Classes and files are taken in the order of their names. Images
    are grayscale, (N, 1, H, W), where all files are; otherwise colour, (N, 3, H, W). docs/extending/data.md has the
    rule for every kind of pixels. Hidden files and what systems leave in folders, such as `__MACOSX` or `Thumbs.db`,
    are no part of the data; the note counts and names what else is no image.

    Pixels of more than a quarter of the memory (`CORRAL_MEMORY_SHARE`) are streamed: files are decoded when their
    images are asked for, by processes beside this one (`corral.data.streamed`). The first time all files are read once,
    for the fingerprint and so that a damaged one is named before anything is trained. From 2 GiB of pixels on a part
    that is not streamed is decoded into a temporary file (TMPDIR decides where), which goes with the process.

    Args:
        path: the top folder; options may stand behind it, as in "photos?size=64,skip-damaged". `size=N` resizes the
            shorter side to N by Pillow's antialiased bilinear filter and cuts the middle N×N out; `resize=M` beside it
            resizes the shorter side to M instead (ImageNet's preset is resize=256,size=224). `upright` turns images as
            an orientation noted in them (EXIF) says; otherwise pixels are taken as they are stored. `skip-damaged`
            leaves out files that are no image or a damaged one, of another size than most, of 16 bits or of several
            pictures, and the note names them; otherwise the first one is an error.

    Raises:
        UsageError: an unknown option, or an impossible size.
        CorralError: names the folder or file, what was found and what was expected; or the disk is full.
    """
    path, reading, ending = _with_options(str(path))
    tops, left = _parts(path)
    trees = {name: _list_files(top) for name, top in tops.items()} or {"all": _list_files(path, without=UNLABELED)}
    classes = _class_folders(path, trees)
    first, _ = next(iter(trees.values()))
    texts = tuple(Path(as_text(first[folder][0].parent)).name for folder in classes)  # before any image is decoded
    more, others = _list_unlabeled(path / UNLABELED)
    files = [file for tree, _ in trees.values() for folder in classes for file in tree[folder]]
    pictures = _Pictures(path, [*files, *more], reading)
    parts = [
        _labelled({folder: tree[folder] for folder in classes}, pictures, f"in {part}", path)
        for part, (tree, _) in trees.items()
    ]
    unlabeled = pictures.images(more)[0] if more else None
    if unlabeled is not None and not len(unlabeled):
        raise CorralError(f"{path / UNLABELED}: every image is damaged; replace them")
    ignored = [file for _, rest in trees.values() for file in rest] + others
    if tops:
        ignored += [entry for entry in _entries(path) if entry not in (*tops.values(), path / UNLABELED)]
    words = [str(file.relative_to(path)) for file in ignored]
    note = f"{len(files) + len(more):,} files" + (f", {len(words):,} others ignored: {named(words)}" if words else "")
    note += left + reading.note()
    name = f"folder:{as_text(path)}{ending}"
    if tops:
        return readable(DataSet(name, texts, parts[0], parts[1], unlabeled, note))
    train, test, split = split_off_test(parts[0], str(path))
    return readable(DataSet(name, texts, train, test, unlabeled, f"{note}; {split}", split_off=True))


class _Pictures:
    """The files of a tree in one order, in which they are asked for: decoded, or streamed where they are too many."""

    def __init__(self, path: Path, files: list[Path], reading: Reading) -> None:
        self.reading = reading
        self.streams = too_many(len(files) * typical_bytes(files, reading.fit))
        if self.streams:
            source = surveyed(path, files, reading)
        else:
            source = PictureFiles(path, files, common_shape(files, reading), reading.fit)
        self.reader, self.given = Reader(source), 0

    def images(self, files: list[Path]) -> tuple[Images, list[int]]:
        """The images, without labels, of those of the next files that can be read, and their indices."""
        if self.streams:
            pixels = None
            indices = [index for index, file in enumerate(files) if file not in self.reading.left_out]
        else:
            pixels, indices = decoded(files, self.reader.shape, self.reading)
        pictures = Streamed(self.reader, rows=self.given + torch.tensor(indices, dtype=torch.int64))
        self.given += len(files)
        return pictures if pixels is None else Images(pixels, pictures=pictures), indices


def _with_options(text: str) -> tuple[Path, Reading, str]:
    """The folder, how its files are read, and the options as the data set's name has them.

    Raises:
        UsageError: an unknown option or one that stands twice, or an impossible size.
        CorralError: no such folder.
    """
    name, mark, behind = text.rpartition("?")
    options = behind.split(",") if mark else []
    unknown = next((option for option in options if not OPTION.fullmatch(option)), None)
    if unknown is not None and os.path.isdir(name) and not os.path.isdir(text):
        raise UsageError(f"folder:{text}: unknown option {unknown!r}; known are {OPTIONS}, separated by commas")
    if unknown is not None or not mark:
        name, options = text, []
    keys = [option.partition("=")[0] for option in options]
    if len(set(keys)) < len(keys):
        raise UsageError(f"folder:{text}: an option stands twice; known are {OPTIONS}, separated by commas")
    path = Path(name)
    if not path.is_dir():
        raise CorralError(f"{path}: {'not a folder' if path.exists() else 'does not exist'}; give a folder of images")
    sides = {key: int(value) for key, equals, value in (option.partition("=") for option in options) if equals}
    reading = Reading(SKIP in options, Fit(sides.get("size"), sides.get("resize"), "upright" in options))
    ending = ",".join([*(f"{key}={side}" for key, side in sides.items()), *sorted(set(options) & {"upright", SKIP})])
    return path, reading, f"?{ending}" if ending else ""


def _parts(path: Path) -> tuple[dict[str, Path], str]:
    """The folders of the training and the test part by their names, none where classes lie at the top; and what the
    note says of parts that are left.

    Raises:
        CorralError: one part without the other.
    """
    names = [name for name in ("train", *TEST_PARTS) if (path / name).is_dir()]
    if names == ["train"] or ("test" in names and "train" not in names):
        found, absent = ("train", "test") if "train" in names else ("test", "train")
        raise CorralError(
            f"{path}: found {found} without {absent}; add {path / absent}, or put the classes into {path}"
        )
    if "train" not in names:
        return {}, ""
    tests = names[1:]
    chosen = next((name for name in tests if any(entry.is_dir() for entry in _entries(path / name))), tests[0])
    left = {name: len(_list_unlabeled(path / name)[0]) for name in tests if name != chosen}
    words = [
        f"; images of {name} ignored: {count:,}, {chosen} is the test part" for name, count in left.items() if count
    ]
    return {"train": path / "train", chosen: path / chosen}, "".join(words)


def _labelled(tree: Mapping[str, Sequence[Path]], pictures: _Pictures, part: str, path: Path) -> Images:
    """The images of one part, by class in order; CorralError where a class has none that can be read."""
    files = [(file, label) for label, members in enumerate(tree.values()) for file in members]
    images, indices = pictures.images([file for file, _ in files])
    labels = torch.tensor([files[index][1] for index in indices], dtype=torch.int64)
    missing = set(range(len(tree))) - set(labels.tolist())
    if missing:
        raise CorralError(f"{path}: every image of class {list(tree)[min(missing)]} {part} is damaged; replace them")
    return images.labelled(labels)


def _is_data(name: str) -> bool:
    """Whether a file or folder of this name was put there by a person."""
    return not name.startswith(".") and name.lower() not in CLUTTER


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, in order of name."""
    return sorted((entry for entry in folder.iterdir() if _is_data(entry.name)), key=lambda entry: entry.name)


def _is_image(file: Path, regular: bool | None = None) -> bool:
    """By its name. A broken link is one, so that opening it names it; a pipe is none: opening it would hang."""
    if file.suffix.lower() not in suffixes():
        return False
    return (file.is_file() if regular is None else regular) or not file.exists()


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


def _images_of(files: list[Path], regular: Mapping[str, bool] | None = None) -> tuple[list[Path], list[Path]]:
    """The images among some files, and the others; `regular` says of names in one folder whether they are files."""
    images: list[Path] = []
    others: list[Path] = []
    for file in files:
        is_image = _is_image(file, None if regular is None else regular[file.name])
        (images if is_image else others).append(file)
    return images, others


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry is a folder, and whether a file; neither where links lead in a circle."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:
        return False, False


def _list_files(top: Path, *, without: str | None = None) -> tuple[dict[str, list[Path]], list[Path]]:
    """The image files by class folder below `top`, in order of name, and the other files."""
    tree: dict[str, list[Path]] = {}
    entries = _entries(top)
    others = [entry for entry in entries if not entry.is_dir()]
    for folder in (entry for entry in entries if entry.is_dir() and entry.name != without):
        inside = _entries(folder)
        with os.scandir(folder) as listed:  # which asks nothing of each of a million files
            kinds = {entry.name: _kind(entry) for entry in listed}
        deeper = next((entry for entry in inside if kinds[entry.name][0]), None)
        if deeper is not None:
            raise CorralError(f"{deeper}: a folder inside a class folder; put its images into {folder}, or elsewhere")
        images, left = _images_of(inside, {name: regular for name, (_, regular) in kinds.items()})
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
        name, parts = different[0], list(trees)
        found, absent = parts if name in names[0] else parts[::-1]
        raise CorralError(f"{path}: class {name} is in {found} but not in {absent}; both need the same class folders")
    return tuple(sorted(names[0]))
