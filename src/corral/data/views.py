"""Random views of images for contrastive learning: SimCLR's augmentations, a batch at once on the device.

Colour and blur are kornia's (extra `contrastive`), imported when first used: it takes seconds.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from corral.errors import CorralError
from corral.precision import full_precision

COLOURS = 3
# SimCLR's blur: standard deviation in pixels, and a kernel that reaches two of the largest to each side.
SIGMA, WIDEST = (0.1, 2.0), 9


@dataclass(frozen=True)
class Augmentation:
    """How views differ from their images (SimCLR, Appendix A).

    Attributes:
        smallest: least share of the image's area that a crop keeps, before it is resized to the whole; 1 never crops.
        jitter: strength s of the colour jitter: brightness, contrast and saturation within 0.8 s, hue within 0.2 s.
        jitter_probability: of the jitter.
        gray: probability of a gray view.
        blur: probability of a Gaussian blur.
        flip: probability of a mirror image.
    """

    smallest: float = 0.08
    jitter: float = 0.5
    jitter_probability: float = 0.8
    gray: float = 0.2
    blur: float = 0.5
    flip: float = 0.5

    def weakened(self, share: float) -> "Augmentation":
        """The same with everything but the mirror at a share of its strength: 1 as it is, 0 mirror images alone."""
        return replace(
            self,
            smallest=1 - share * (1 - self.smallest),
            jitter=share * self.jitter,
            jitter_probability=share * self.jitter_probability,
            gray=share * self.gray,
            blur=share * self.blur,
        )


@full_precision
def random_views(x: Tensor, augmentation: Augmentation, *, generator: torch.Generator) -> Tensor:
    """A random view of every image: crop and resize, mirror, jitter, gray, blur.

    In float32 whatever surrounds it: in bfloat16 the corners of a crop would be off by a tenth of a pixel and more.

    Args:
        x: (N, C, H, W) float images in [0, 1], of 1 or 3 channels; gray images have no saturation and no hue.
        augmentation: how strong.
        generator: decides all of it; torch's global generators stay as they are.

    Returns:
        (N, C, H, W) like x, in [0, 1].

    Raises:
        ValueError: another number of channels.
        CorralError: kornia is missing.
    """
    channels = x.shape[1]
    if channels not in (1, COLOURS):
        raise ValueError(f"views are of images with 1 or 3 channels, found {channels}")
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    devices = [x.device] if x.device.type == "cuda" else []
    # torch.manual_seed would reseed a GPU's generator too, also where no image is there.
    reseed = torch.manual_seed if devices else torch.default_generator.manual_seed
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        reseed(seed)
        view = x.expand(-1, COLOURS, -1, -1)
        for step in _steps(augmentation, (x.shape[2], x.shape[3])):
            view = step(view)
        # Equal channels stay equal: one of them is the gray view.
        return view[:, :channels].clamp(0, 1)


@lru_cache(maxsize=64)
def _steps(augmentation: Augmentation, size: tuple[int, int]) -> tuple[Any, ...]:
    try:
        from kornia import augmentation as kornia
    except ImportError as error:
        raise CorralError("contrastive views need kornia: pip install 'corral[contrastive]'") from error
    found: list[Any] = []
    if augmentation.smallest < 1:
        found.append(kornia.RandomResizedCrop(size, scale=(augmentation.smallest, 1.0), cropping_mode="resample"))
    if augmentation.flip > 0:
        found.append(kornia.RandomHorizontalFlip(p=augmentation.flip))
    if augmentation.jitter > 0 and augmentation.jitter_probability > 0:
        # torchvision's formulas, which the papers' views are; kornia's ColorJiggle adds brightness and scales contrast.
        strong, hue = 0.8 * augmentation.jitter, 0.2 * augmentation.jitter
        found.append(kornia.ColorJitter(strong, strong, strong, hue, p=augmentation.jitter_probability))
    if augmentation.gray > 0:
        found.append(kornia.RandomGrayscale(p=augmentation.gray))
    if augmentation.blur > 0:
        side = min(WIDEST, min(size) - 1 - min(size) % 2)
        found.append(kornia.RandomGaussianBlur((side, side), SIGMA, p=augmentation.blur))
    return tuple(found)
