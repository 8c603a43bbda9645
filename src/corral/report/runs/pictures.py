"""Images and their adversarial versions as PNG data URIs."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corral.report.runs.collect import Arrays

MOST_PICTURES = 10
LONGEST_SIDE = 96


@dataclass(frozen=True)
class Pair:
    """One test image and its adversarial version, with what the model says of each."""

    label: str
    clean_uri: str
    clean_predicted: str
    clean_right: bool
    adversarial_uri: str
    adversarial_predicted: str
    adversarial_right: bool


def pairs(arrays: Arrays, classes: Sequence[str]) -> list[Pair]:
    """The first `MOST_PICTURES` images of a run with their adversarial versions.

    Args:
        arrays: of one run.
        classes: class names.
    """
    return [
        Pair(
            label=classes[int(arrays.images_labels[i])],
            clean_uri=png_uri(arrays.images[i]),
            clean_predicted=classes[int(arrays.images_predicted[i])],
            clean_right=bool(arrays.images_predicted[i] == arrays.images_labels[i]),
            adversarial_uri=png_uri(arrays.images_adversarial[i]),
            adversarial_predicted=classes[int(arrays.images_adversarial_predicted[i])],
            adversarial_right=bool(arrays.images_adversarial_predicted[i] == arrays.images_labels[i]),
        )
        for i in range(min(MOST_PICTURES, len(arrays.images)))
    ]


def png_uri(pixels: NDArray[Any]) -> str:
    """One image as a `data:` URI.

    Args:
        pixels: (C, H, W), uint8 or float in [0, 1]; three channels are red, green, blue, any other number is averaged
            to grey. Sides over `LONGEST_SIDE` are scaled down to it.
    """
    if not np.issubdtype(pixels.dtype, np.integer):
        pixels = np.rint(np.clip(pixels, 0, 1) * 255)
    flat = pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 else np.rint(pixels.mean(0))
    picture = Image.fromarray(np.ascontiguousarray(flat.astype(np.uint8)))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
