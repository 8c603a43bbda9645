"""Test images, their adversarial versions and the differences as pictures inside the page."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corral.report.runs.collect import Arrays

MOST_PICTURES = 10
# Of a picture with a longer side; a smaller picture is shown pixel by pixel.
LONGEST_SIDE = 96
# By how much a difference may be multiplied.
FACTORS = (1, 2, 5, 10, 20, 50, 100)
ROUNDING = 1e-5


def pictures(arrays: Arrays, classes: Sequence[str], *, room: int) -> list[dict[str, Any]]:
    """The first images of a run, their adversarial versions and the differences, with predictions and distances.

    At most `MOST_PICTURES`, and as many as need no more than `room` bytes on the page, but one at least.
    """
    found: list[dict[str, Any]] = []
    factor, used = magnified(arrays), 0
    for i, label in enumerate(arrays.images_labels[:MOST_PICTURES].tolist()):
        before, after = int(arrays.images_predicted[i]), int(arrays.images_adversarial_predicted[i])
        x, moved = as_fractions(arrays.images[i]), as_fractions(arrays.images_adversarial[i])
        change = moved - x
        one = {
            "label": classes[label],
            "kind": label,
            "clean": {"uri": picture_uri(x), "predicted": classes[before], "right": before == label},
            "adversarial": {"uri": picture_uri(moved), "predicted": classes[after], "right": after == label},
            "difference": picture_uri(0.5 + factor * change),
            "linf": _length(np.abs(change).max()),
            "l2": _length(np.sqrt((change**2).sum())),
        }
        used += len(one["clean"]["uri"]) + len(one["adversarial"]["uri"]) + len(one["difference"])
        if found and used > room:
            break
        found.append(one)
    return found


def _length(value: float) -> str:
    """A distance to three digits; what is float32's rounding is none."""
    return f"{value:.3g}" if value > ROUNDING else "0"


def magnified(arrays: Arrays) -> int:
    """The largest of `FACTORS` by which the differences of the shown images stay within half the range of a pixel."""
    if not len(arrays.images):
        return 1
    pairs = zip(arrays.images[:MOST_PICTURES], arrays.images_adversarial[:MOST_PICTURES], strict=True)
    largest = max(float(np.abs(as_fractions(moved) - as_fractions(x)).max()) for x, moved in pairs)
    return max((factor for factor in FACTORS if factor * largest <= 0.5), default=1)


def as_fractions(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Pixels, uint8 or float in [0, 1], as float in [0, 1]."""
    scale = 255 if np.issubdtype(pixels.dtype, np.integer) else 1
    return np.clip(pixels.astype(np.float64) / scale, 0, 1)


def picture_uri(pixels: NDArray[np.float64]) -> str:
    """One image as a `data:` URI.

    Args:
        pixels: (C, H, W), cut off at 0 and 1; three channels are red, green, blue, any other number is averaged to
            grey. Sides over `LONGEST_SIDE` are scaled down to it, and such a picture is a JPEG: a page has many.
    """
    levels = np.rint(np.clip(pixels, 0, 1) * 255)
    flat = levels.transpose(1, 2, 0) if levels.shape[0] == 3 else np.rint(levels.mean(0))
    picture = Image.fromarray(np.ascontiguousarray(flat.astype(np.uint8)))
    kind = "JPEG" if max(picture.size) > LONGEST_SIDE else "PNG"
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    stream = io.BytesIO()
    picture.save(stream, format=kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(stream.getvalue()).decode()
