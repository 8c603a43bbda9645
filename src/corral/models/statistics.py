"""Means and standard deviations of pixels in [0, 1] that models in use were trained with, by name."""

import re

from corral.errors import UsageError
from corral.models.classifier import Normalisation

# Mean and standard deviation of each channel, or one for all.
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
STATISTICS: dict[str, Statistics] = {
    "half": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
}
NUMBERS = re.compile(r"[0-9.eE+,-]+/[0-9.eE+,-]+")


def channel_statistics(normalise: str | Statistics | None, channels: int) -> Statistics:
    """One mean and one positive deviation a channel.

    Args:
        normalise: as `parse_normalise` takes it, "none" or None for pixels as they are, or (means, deviations), one
            number for all channels or one for each.
        channels: how many there are.

    Raises:
        UsageError: no such normalisation, or as many numbers as no channel has.
    """
    if normalise is None or normalise == "none":
        return (0.0,) * channels, (1.0,) * channels
    given = parse_normalise(normalise) if isinstance(normalise, str) else normalise
    mean, std = (tuple(values) * channels if len(values) == 1 else tuple(values) for values in given)
    if len(mean) != channels or len(std) != channels:
        shown = f" {normalise!r}" if isinstance(normalise, str) else ""
        raise UsageError(f"normalise{shown} is of {len(mean)} channels, the images have {channels}")
    return mean, std


def parse_normalise(text: str) -> Statistics:
    """The mean and standard deviation of a name ("imagenet") or of "M,M,M/S,S,S".

    Raises:
        UsageError: neither.
    """
    if text in STATISTICS:
        return STATISTICS[text]
    try:
        if not NUMBERS.fullmatch(text):
            raise ValueError
        mean, std = (tuple(float(value) for value in part.split(",")) for part in text.split("/"))
        Normalisation(mean, std)
    except ValueError:
        raise UsageError(
            f"--normalise takes {', '.join(STATISTICS)} or means/deviations such as "
            f"0.485,0.456,0.406/0.229,0.224,0.225, found {text!r}"
        ) from None
    return mean, std
