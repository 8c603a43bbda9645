"""Augmentation of a batch on its device: crops and flips by one gather, squares left out, boxes of other images."""

import torch
from torch import Tensor
from torch.nn import functional


def crop_and_flip(pixels: Tensor, *, padding: int, flip: bool, generator: torch.Generator | None = None) -> Tensor:
    """Shift every image at random within a border of zeros and mirror half of them.

    Args:
        pixels: (N, C, H, W) of any type; the border is 0.
        padding: width of the border; an image is cropped back to (H, W) at one of (2 padding + 1)^2 offsets.
        flip: mirror every image left to right with probability 1/2.
        generator: decides crops and flips; it draws on its own device, so that a CPU generator serves every device.

    Returns:
        (N, C, H, W) like `pixels`; `pixels` itself where there is nothing to do.

    Raises:
        ValueError: a negative padding, or pixels that are not (N, C, H, W).
    """
    if padding < 0 or pixels.ndim != 4:
        raise ValueError(f"needs (N, C, H, W) pixels and padding >= 0, got {tuple(pixels.shape)} and {padding}")
    if padding == 0 and not flip:
        return pixels
    count, _, height, width = pixels.shape
    source = pixels.device if generator is None else generator.device
    offsets = torch.randint(2 * padding + 1, (2, count, 1), generator=generator, device=source).to(pixels.device)
    rows = offsets[0] + torch.arange(height, device=pixels.device)
    columns = torch.arange(width, device=pixels.device).expand(count, width)
    if flip:
        mirrored = torch.randint(2, (count, 1), generator=generator, device=source).to(pixels.device).bool()
        columns = torch.where(mirrored, columns.flip(1), columns)
    columns = columns + offsets[1]
    padded = functional.pad(pixels, (padding,) * 4)
    index = rows.unsqueeze(2) * padded.shape[3] + columns.unsqueeze(1)
    index = index.view(count, 1, height * width).expand(-1, pixels.shape[1], -1)
    return padded.flatten(2).gather(2, index).view(pixels.shape)


def cutout(pixels: Tensor, *, side: int, generator: torch.Generator | None = None) -> Tensor:
    """Blacken a square of every image (Cutout, DeVries and Taylor 2017), which the border may cut.

    Args:
        pixels: (N, C, H, W) of any type.
        side: of the square, in pixels; 0 changes nothing. Its centre is uniform among the image's pixels.
        generator: decides the places; it draws on its own device.

    Returns:
        (N, C, H, W) like `pixels`.

    Raises:
        ValueError: a negative side.
    """
    if side < 0:
        raise ValueError(f"side must be at least 0, found {side}")
    if side == 0:
        return pixels
    return pixels.masked_fill(_boxes(pixels, (side, side), generator).unsqueeze(1), 0)


def cutmix(pixels: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Put a box of another image of the batch into every image (CutMix, Yun et al. 2019, with alpha 1).

    A box has the image's shape and sqrt(1 - lambda) of its sides, lambda uniform in [0, 1] for each image, its centre
    is uniform, and the border may cut it. The other image's label counts by the box's share of the pixels.

    Args:
        pixels: (N, C, H, W) of any type.
        generator: decides everything; it draws on its own device.

    Returns:
        The mixed images like `pixels`, (N,) the index of the other image of each, (N,) its share in [0, 1].
    """
    count, _, height, width = pixels.shape
    source = pixels.device if generator is None else generator.device
    others = torch.randperm(count, generator=generator, device=source).to(pixels.device)
    ratio = (1 - torch.rand(count, generator=generator, device=source)).sqrt().to(pixels.device)
    inside = _boxes(pixels, ((height * ratio).long(), (width * ratio).long()), generator)
    mixed = torch.where(inside.unsqueeze(1), pixels[others], pixels)
    return mixed, others, inside.float().mean((1, 2))


def _boxes(pixels: Tensor, sides: tuple[int | Tensor, int | Tensor], generator: torch.Generator | None) -> Tensor:
    """(N, H, W) whether a pixel is in its image's box, of these sides (numbers, or one each), around a random pixel."""
    source = pixels.device if generator is None else generator.device
    spans = []
    for length, side in zip(pixels.shape[2:], sides, strict=True):
        centres = torch.randint(length, (len(pixels),), generator=generator, device=source).to(pixels.device)
        start = (centres - side // 2).unsqueeze(1)
        end = start + (side.unsqueeze(1) if isinstance(side, Tensor) else side)
        places = torch.arange(length, device=pixels.device)
        spans.append((places >= start) & (places < end))
    return spans[0].unsqueeze(2) & spans[1].unsqueeze(1)
