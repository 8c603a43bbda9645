"""Images as scikit-learn's users have them: arrays of any layout, or rows with a shape."""

import math
from collections.abc import Sequence
from typing import Any

from sklearn.utils import check_array
from torch import Tensor

from corral.data.loading.arrays import Layout, as_pixels, layout_by_channels, layout_of


def check_shape(shape: Any) -> None:
    """Refuse an `image_shape` that is neither None nor (C, H, W); ValueError."""
    whole = isinstance(shape, Sequence) and len(shape) == 3 and all(isinstance(size, int) for size in shape)
    if shape is not None and not whole:
        raise ValueError(f"image_shape must be (C, H, W), three whole numbers, found {shape!r}")


def as_images(X: Any, shape: tuple[int, int, int] | None, *, least: int) -> Tensor:
    """(n, C, H, W) pixels, uint8 or float32.

    Args:
        X: (n, H, W), (n, H, W, C) or (n, C, H, W) uint8 or floats, or (n, C × H × W) rows of a known shape.
        shape: (C, H, W) that the images must have; None where their own layout says it.
        least: how many there must be.

    Raises:
        ValueError: another shape, or values that are no finite numbers.
        CorralError: a layout that is not evident, or another type.
    """
    array = check_array(X, allow_nd=True, ensure_min_samples=least)
    layout: Layout | None = None
    if array.ndim == 2:
        assert shape is not None
        if array.shape[1] != math.prod(shape):
            raise ValueError(f"X has {array.shape[1]} features, but image_shape {shape} has {math.prod(shape)}")
        array, layout = array.reshape(-1, *shape), "NCHW"
    elif array.ndim == 4:
        layout = layout_by_channels("X", array) if shape is None else layout_of("X", array, shape)
    pixels = as_pixels("X", array, layout=layout)
    found = tuple(pixels.shape[1:])
    if shape is not None and found != tuple(shape):
        raise ValueError(f"X has images {found} (C, H, W), expected {tuple(shape)}")
    return pixels
