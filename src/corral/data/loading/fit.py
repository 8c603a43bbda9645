"""Pictures of any size made one size: the shorter side resized, the middle cut out."""

from dataclasses import dataclass

from PIL import Image, ImageOps

from corral.errors import CorralError, UsageError

# The longest side that a picture may be resized to, and its tag of an orientation.
MOST_SIDE, ORIENTATION = 8192, 0x0112
# Orientations that swap width and height, and where Pillow keeps what may note one.
SIDEWAYS = (5, 6, 7, 8)
NOTES = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


@dataclass(frozen=True)
class Fit:
    """How pictures are turned and made one size; by default they are taken as they are stored.

    Attributes:
        size: side in pixels of the square that is cut out of the middle; None keeps every size.
        resize: what the shorter side is resized to before, by Pillow's antialiased bilinear filter, up or down; default
            `size`. The field's ImageNet preset is 256 before a square of 224.
        upright: turn pictures as the orientation noted in them (EXIF) says.

    Raises:
        UsageError: a size that is none, or `resize` without `size` or below it.
    """

    size: int | None = None
    resize: int | None = None
    upright: bool = False

    def __post_init__(self) -> None:
        for name, side in (("size", self.size), ("resize", self.resize)):
            wrong = isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= MOST_SIDE
            if side is not None and wrong:
                raise UsageError(f"{name} must be a whole number of pixels from 1 to {MOST_SIDE}, found {side!r}")
        if self.resize is not None and (self.size is None or self.resize < self.size):
            found = "none" if self.size is None else self.size
            raise UsageError(f"resize goes with a size that is not larger, found resize {self.resize} and size {found}")

    @property
    def note(self) -> str:
        """What is done, as the end of a data set's note."""
        words = "; turned upright" if self.upright else ""
        if self.size is None:
            return words
        return f"{words}; shorter side resized to {self.resize or self.size}, middle {self.size}×{self.size} cut out"

    def side_lengths(self, image: Image.Image) -> tuple[int, int]:
        """(width, height) that `applied` makes of a picture, from its header."""
        if self.size is not None:
            return self.size, self.size
        width, height = image.size
        return (height, width) if self.upright and orientation(image) in SIDEWAYS else (width, height)

    def applied(self, image: Image.Image, where: str) -> Image.Image:
        """The picture, of a mode that can be resized (L or RGB), turned already.

        Raises:
            CorralError: it is so long that resizing its shorter side makes more pixels than Pillow allows.
        """
        if self.size is None:
            return image
        width, height = image.size
        short, wanted = min(width, height), self.resize or self.size
        across, down = int(wanted * width / short), int(wanted * height / short)
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and across * down > most:
            raise CorralError(
                f"{where}: {width}×{height} pixels would be {across:,}×{down:,} with a shorter side of {wanted}, "
                f"expected at most {most:,} pixels; cut it, or leave it out"
            )
        if (across, down) != (width, height):
            image = image.resize((across, down), Image.Resampling.BILINEAR)
        left, top = round((across - self.size) / 2), round((down - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


AS_STORED = Fit()


def orientation(image: Image.Image) -> int:
    """The orientation noted in a picture (EXIF), 1 where it is upright or none is noted; TIFF files Pillow turns."""
    if image.format == "TIFF" or not any(note in image.info for note in NOTES):
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # whatever Pillow's parser raises on damaged notes, which turn nothing
        return 1


def turned(image: Image.Image) -> Image.Image:
    """The picture as its orientation says, which may stand behind the pixels."""
    image.load()
    return image if orientation(image) == 1 else ImageOps.exif_transpose(image)
