"""Trees of pictures of different sizes, as photographs are, for tests of what reads them."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_tree(
    root: Path, *, train: int = 6, test: int = 3, classes: int = 2, sides: tuple[int, int] = (40, 70)
) -> str:
    """So many JPEG files a class and part, of sides in this range; returns the folder's data-set name, not resized."""
    numbers = np.random.default_rng(0)
    for part, count in (("train", train), ("val", test)):
        for label in range(2):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                width, height = (int(side) for side in numbers.integers(*sides, 2))
                # Smooth, as JPEG likes it; the classes differ by their brightness.
                coarse = numbers.integers(100 * label, 100 * label + 130, (4, 4, 3)).astype(np.uint8)
                Image.fromarray(coarse).resize((width, height)).save(folder / f"{index}.jpg")
    return f"folder:{root}"
