"""Random-resized crops: a random part of every image, made the whole image's size (Szegedy et al. 2015)."""

import math
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

# Width by height of a part, at most and at least, and how often a part that would not fit is drawn again.
RATIOS, TRIES = (3 / 4, 4 / 3), 10
DRAWN = 2 * TRIES + 2


@dataclass(frozen=True)
class Crops:
    """Random parts of images, drawn batch by batch.

    A part's area is a uniform share of the image's, from `smallest` to 1, the logarithm of its width by its height is
    uniform from log 3/4 to log 4/3, and so is its place. One that does not fit is drawn again, ten times; then the
    largest middle part of an allowed ratio is taken. These are torchvision's rules.

    Attributes:
        smallest: the least share, in (0, 1].
        generator: draws on its own device; every image takes equally many numbers, whatever its size.
    """

    smallest: float
    generator: torch.Generator

    def draw(self, count: int) -> Tensor:
        """(count, DRAWN) numbers on the CPU that decide the parts of so many images, for `box_of`."""
        return torch.rand(count, DRAWN, generator=self.generator, device=self.generator.device).cpu()


def box_of(numbers: list[float], smallest: float, width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a part of an image of these sides, by `DRAWN` uniform numbers in [0, 1)."""
    low, high = (math.log(ratio) for ratio in RATIOS)
    for place in range(TRIES):
        area = width * height * (smallest + (1 - smallest) * numbers[2 * place])
        ratio = math.exp(low + (high - low) * numbers[2 * place + 1])
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = (
                int(number * count)
                for number, count in zip(numbers[-2:], (width - across + 1, height - down + 1), strict=True)
            )
            return left, top, across, down
    across, down = width, height
    if width / height < RATIOS[0]:
        down = max(1, round(width / RATIOS[0]))
    elif width / height > RATIOS[1]:
        across = max(1, round(height * RATIOS[1]))
    return (width - across) // 2, (height - down) // 2, across, down


@dataclass(frozen=True)
class Crop:
    """One picture's random part, made one size.

    Attributes:
        numbers: `DRAWN` uniform numbers in [0, 1).
        smallest: the least share of the picture's area.
        side_lengths: (width, height) of what is made of it.
    """

    numbers: list[float]
    smallest: float
    side_lengths: tuple[int, int]

    def applied(self, image: Image.Image, where: str) -> Image.Image:
        """The part of a picture (of mode L or RGB), by Pillow's antialiased bilinear filter."""
        left, top, across, down = box_of(self.numbers, self.smallest, *image.size)
        part = image.crop((left, top, left + across, top + down))
        return part if part.size == self.side_lengths else part.resize(self.side_lengths, Image.Resampling.BILINEAR)


def cropped(pixels: Tensor, numbers: Tensor, smallest: float) -> Tensor:
    """Random parts of images that all have one size, enlarged to it by bilinear interpolation, on their device.

    Args:
        pixels: (N, C, H, W) uint8, or floats in [0, 1].
        numbers: (N, DRAWN), as `Crops.draw` gives them.
        smallest: the least share of an image's area.

    Returns:
        (N, C, H, W) like pixels; levels are rounded.
    """
    height, width = pixels.shape[2:]
    boxes = torch.tensor([box_of(row, smallest, width, height) for row in numbers.tolist()], dtype=torch.float32)
    left, top, across, down = boxes.to(pixels.device).view(-1, 4).unbind(1)
    # The middle of a pixel lies at a half: -1 and 1 are the image's edges.
    columns = (left[:, None] + _middles(width, pixels) * across[:, None]) * 2 / width - 1
    rows = (top[:, None] + _middles(height, pixels) * down[:, None]) * 2 / height - 1
    # Between the middles of the part's own pixels: what lies beside it has no share.
    columns = columns.clamp(((2 * left + 1) / width - 1)[:, None], ((2 * (left + across) - 1) / width - 1)[:, None])
    rows = rows.clamp(((2 * top + 1) / height - 1)[:, None], ((2 * (top + down) - 1) / height - 1)[:, None])
    grid = torch.stack((columns[:, None].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)), 3)
    found = functional.grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found.round().to(torch.uint8) if pixels.dtype == torch.uint8 else found.clamp(0, 1).to(pixels.dtype)


def _middles(count: int, like: Tensor) -> Tensor:
    """(1, count) middles of equal parts of [0, 1]."""
    return ((torch.arange(count, device=like.device) + 0.5) / count)[None]
