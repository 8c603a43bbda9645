"""Files of one still picture, as Pillow reads them: 8 bits a channel, gray or colour, never a part of what is there."""

import contextlib
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from corral.data.crops import Crop
from corral.data.loading.fit import AS_STORED, Fit, orientation, turned
from corral.data.loading.memmap import allocate
from corral.errors import CorralError
from corral.files import path_words

# Of all that Pillow reads, what it keeps every bit of.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM")
# A JPEG file with previews behind the photograph, as cameras and telephones write it.
PREVIEWED = "MPO"
WORDS = "PNG, JPEG, BMP, WebP, TIFF, GIF or PPM image"
GRAY_MODES = frozenset({"1", "L"})
COLOUR_MODES = frozenset({"RGB", "RGBA", "P", "PA", "LA", "La", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})
MOST_LEVEL = 255

# An option of a folder: leave out what cannot be read or does not fit; and how many of these files a note names.
SKIP, NAMED = "skip-damaged", 3
LEAVE_OUT = f"put ?{SKIP} behind the folder's name to leave such files out"
REMEDY = f"remove or replace it, or {LEAVE_OUT}"


@cache
def suffixes() -> frozenset[str]:
    """The endings of the names of files in these formats, in small letters."""
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in (*FORMATS, PREVIEWED))


def named(files: list[Path] | list[str]) -> str:
    """The first few of some files, and how many others there are."""
    more = f" and {len(files) - NAMED:,} more" if len(files) > NAMED else ""
    return ", ".join(map(path_words, files[:NAMED])) + more


@dataclass
class Reading:
    """How files are read, what to do with those that cannot be read or do not fit the others, and what was found.

    Attributes:
        skipping: leave such files out.
        fit: how pictures are turned and made one size.
        left_out: the files that were.
        sideways: how many have an orientation that is not applied.
    """

    skipping: bool
    fit: Fit = AS_STORED
    left_out: dict[Path, None] = field(default_factory=dict)
    sideways: int = 0

    def skip(self, file: Path, error: CorralError) -> None:
        """Leave a file out, or raise its error."""
        if not self.skipping:
            raise error
        self.left_out[file] = None

    def note(self) -> str:
        """How many were left out and which, and what was not applied, as the end of a data set's note."""
        found = list(self.left_out)
        words = f"; {len(found):,} damaged and skipped: {named(found)}" if found else ""
        return words + (f"; {self.sideways:,} orientations (EXIF) ignored, ?upright turns" if self.sideways else "")


def common_shape(files: list[Path], reading: Reading) -> tuple[int, int, int]:
    """(C, H, W) of all files, from their headers: nothing is decoded before all sizes are known to agree.

    Where files are left out, the most frequent size is that of all, and an image in colour among gray ones is decoded
    before it makes all of them colour.

    Raises:
        CorralError: a file that is no image, or not like the first; no file that can be read.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    modes: dict[Path, str] = {}
    for file in files:
        try:
            with _open(file) as image:
                require_still(str(file), image, remedy=f", or {LEAVE_OUT}")
                sizes[file], modes[file] = reading.fit.side_lengths(image), image.mode
                reading.sideways += not reading.fit.upright and orientation(image) != 1
        except CorralError as error:
            reading.skip(file, error)
    expected, reference = _expected(sizes, reading)
    gray = True
    for file, size in sizes.items():
        try:
            if size != expected:
                raise CorralError(
                    f"{file}: found {size[0]}×{size[1]} pixels, expected {expected[0]}×{expected[1]} as in "
                    f"{reference}; put ?size=N behind the folder's name to resize and crop all images to N×N, make "
                    f"them the same size, or {LEAVE_OUT}"
                )
            if reading.skipping and gray and modes[file] not in GRAY_MODES:
                _decode(file, 3, reading.fit)
        except CorralError as error:
            reading.skip(file, error)
        else:
            gray = gray and modes[file] in GRAY_MODES
    if len(reading.left_out) == len(set(files)):
        raise CorralError(f"{files[0].parent}: every image is damaged; replace them")
    width, height = expected
    return 1 if gray else 3, height, width


def _expected(sizes: dict[Path, tuple[int, int]], reading: Reading) -> tuple[tuple[int, int], Path | None]:
    """The size that all must have, and a file that has it: the first one's; where files are left out, the commonest."""
    if not sizes:
        return (0, 0), None
    counts = Counter(sizes.values())
    candidates = list(sizes.items())
    if reading.skipping and len(counts) > 1:  # a stable order: of equally many the one met first
        candidates.sort(key=lambda item: (-counts[item[1]], list(counts).index(item[1])))
        for file, size in candidates:
            with contextlib.suppress(CorralError):  # what cannot be decoded decides nothing, and is left out later
                _decode(file, 3, reading.fit)
                return size, file
    file, size = candidates[0]
    return size, file


def decoded(files: list[Path], shape: tuple[int, int, int], reading: Reading) -> tuple[torch.Tensor, list[int]]:
    """(n, C, H, W) uint8 of the files that can be decoded, and their indices."""
    pixels = allocate((len(files), *shape))
    indices: list[int] = []
    for index, file in enumerate(files):
        if file in reading.left_out:
            continue
        try:
            pixels[len(indices)] = read_picture(file, shape, reading.fit)
            indices.append(index)
        except CorralError as error:
            reading.skip(file, error)
    return torch.from_numpy(pixels[: len(indices)]), indices


def read_picture(file: Path, shape: tuple[int, int, int], fit: Fit, crop: Crop | None = None) -> np.ndarray:
    """A file's picture as (C, H, W) uint8 of this shape, or a random part of it that is made so.

    Raises:
        CorralError: it cannot be read, or is of another shape.
    """
    with _open(file) as image:
        require_still(str(file), image, remedy=f", or {LEAVE_OUT}")
        content = picture_pixels(str(file), image, shape[0], fit, remedy=REMEDY, crop=crop)
    if content.shape != shape:
        raise CorralError(f"{file}: found {content.shape} when decoded, its header says {shape}; {REMEDY}")
    return content


def typical_bytes(files: list[Path], fit: Fit) -> int:
    """The bytes of an image of some files in colour, by the first of which there is a header; nothing is decoded."""
    if fit.size is not None:
        return 3 * fit.size**2
    for file in files:
        with contextlib.suppress(CorralError), _open(file) as image:
            width, height = fit.side_lengths(image)
            return 3 * width * height
    return 0


def require_still(where: str, image: Image.Image, *, remedy: str = "") -> None:
    """Refuse what would lose frames or bits.

    Raises:
        CorralError: several pictures, more than 8 bits a channel, or a mode that is no colour or gray; the message
            begins with `where` and ends with the remedy.
    """
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception as error:  # as _open: counting them parses the file
        raise CorralError(f"{where}: a damaged image ({error}); remove or replace it{remedy}") from error
    if frames > 1 and image.format != PREVIEWED:
        raise CorralError(
            f"{where}: found {frames} pictures in one file (an animation or pages), expected one still image; save the "
            f"one that is meant{remedy}"
        )
    known = image.mode in GRAY_MODES | COLOUR_MODES
    if not known or _deep(image):
        found = "16 bits" if known else f"pixels of mode {image.mode}"
        raise CorralError(f"{where}: found {found}, expected 8 bits a channel; convert it{remedy}")


def _deep(image: Image.Image) -> bool:
    """Whether a file has more than 8 bits a channel, of which Pillow would keep the upper 8."""
    for tile in getattr(image, "tile", ()):
        given = tile[3] if isinstance(tile[3], tuple | list) else (tile[3],)
        most = given[1] if tile[0].startswith("ppm") else 0
        if (given and "16" in str(given[0])) or (isinstance(most, int) and most > MOST_LEVEL):
            return True
    return False


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
            raise CorralError(f"{file}: not a {WORDS}; {REMEDY}") from error
        except Exception as error:  # whatever a parser of Pillow raises where a file is damaged
            raise CorralError(f"{file}: cannot be read ({error}); {REMEDY}") from error


def _decode(file: Path, channels: int, fit: Fit) -> np.ndarray:
    """(C, H, W) uint8."""
    with _open(file) as image:
        return picture_pixels(str(file), image, channels, fit, remedy=REMEDY)


def picture_pixels(
    where: str, image: Image.Image, channels: int, fit: Fit, *, remedy: str, crop: Crop | None = None
) -> np.ndarray:
    """A picture as (C, H, W) uint8 levels.

    Args:
        where: what a message begins with.
        image: of a mode that `require_still` lets through.
        channels: 1 for gray (Pillow's mode L), 3 for colour (RGB); transparency is dropped.
        fit: how it is turned and made one size.
        remedy: what a message ends with.
        crop: a random part to take, and the size to make it, instead of the fit's.

    Raises:
        CorralError: it cannot be decoded, or not be made that size.
    """
    try:
        # A palette with transparency goes through RGBA, as Pillow asks.
        through = image.convert("RGBA") if "transparency" in image.info else image
        plain = (turned(through) if fit.upright else through).convert("L" if channels == 1 else "RGB")
        content = np.asarray((fit if crop is None else crop).applied(plain, where))
    except CorralError:
        raise
    except Exception as error:  # whatever a decoder of Pillow raises where a file is damaged
        raise CorralError(f"{where}: a damaged image ({error}); {remedy}") from error
    return content[None] if channels == 1 else content.transpose(2, 0, 1)
