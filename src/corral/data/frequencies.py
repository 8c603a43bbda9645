"""The high frequencies of images (AdvCL)."""

import torch
from torch import Tensor


def high_frequencies(x: Tensor, *, least: float) -> Tensor:
    """The part of every image that is of frequencies from `least` on, by the discrete Fourier transform.

    Args:
        x: (N, C, H, W) float images.
        least: the lowest frequency that remains, in cycles an image: the length of the two-dimensional frequency.

    Returns:
        (N, C, H, W) like x, around 0.

    Raises:
        ValueError: x of another rank, or `least` not above 0.
    """
    if x.dim() != 4 or not least > 0:
        raise ValueError(f"needs (N, C, H, W) images and least above 0, found {tuple(x.shape)} and {least}")
    height, width = x.shape[2:]
    down = torch.fft.fftfreq(height, 1 / height, device=x.device).unsqueeze(1)
    across = torch.fft.rfftfreq(width, 1 / width, device=x.device).unsqueeze(0)
    high = (down.square() + across.square()).sqrt() >= least
    spectrum = torch.fft.rfft2(x.float()) * high
    found: Tensor = torch.fft.irfft2(spectrum, s=(height, width))
    return found.to(x.dtype)
