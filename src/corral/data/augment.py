"""Random crops and horizontal flips of a batch, one gather on the device."""

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
