import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from corral.data import crop_and_flip


def all_outcomes(image: Tensor, padding: int, flip: bool) -> list[Tensor]:
    """Every (C, H, W) image that may come of one, pixel by pixel: the slow, obvious twin."""
    channels, height, width = image.shape
    outcomes = []
    for mirrored in (False, True)[: 1 + flip]:
        for top in range(-padding, padding + 1):
            for left in range(-padding, padding + 1):
                outcome = torch.zeros_like(image)
                for row in range(height):
                    for column in range(width):
                        source_row = row + top
                        source_column = (width - 1 - column if mirrored else column) + left
                        if 0 <= source_row < height and 0 <= source_column < width:
                            outcome[:, row, column] = image[:, source_row, source_column]
                outcomes.append(outcome)
    assert channels == image.shape[0]
    return outcomes


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([torch.uint8, torch.float32, torch.bfloat16]),
    st.integers(0, 2**31),
)
def test_every_image_is_a_crop_of_its_own_source(
    count: int, channels: int, height: int, width: int, padding: int, flip: bool, dtype: torch.dtype, seed: int
) -> None:
    pixels = (torch.arange(count * channels * height * width).view(count, channels, height, width) % 255 + 1).to(dtype)
    before = pixels.clone()
    result = crop_and_flip(pixels, padding=padding, flip=flip, generator=torch.Generator().manual_seed(seed))
    assert result.dtype == dtype
    assert result.shape == pixels.shape
    assert torch.equal(pixels, before)
    for image, outcome in zip(pixels, result, strict=True):
        assert any(torch.equal(outcome, candidate) for candidate in all_outcomes(image, padding, flip))


def test_all_crops_and_flips_come_equally_often(device: torch.device) -> None:
    """18,000 images, 18 distinct outcomes: 1,000 each, within five standard deviations of the binomial (30.7)."""
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 3, 3)
    outcomes = all_outcomes(image, 1, True)
    generator = torch.Generator().manual_seed(0)
    pixels = image.expand(18_000, -1, -1, -1).to(device)
    result = crop_and_flip(pixels, padding=1, flip=True, generator=generator).cpu()
    counts = [int((result == outcome).flatten(1).all(1).sum()) for outcome in outcomes]
    assert sum(counts) == 18_000
    assert max(abs(count - 1000) for count in counts) < 5 * 30.7


def test_the_same_generator_gives_the_same_images_on_every_device(device: torch.device) -> None:
    pixels = torch.randint(256, (16, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        crop_and_flip(pixels.to(where), padding=2, flip=True, generator=torch.Generator().manual_seed(seed)).cpu()
        for seed, where in ((1, "cpu"), (1, device), (2, device))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nothing_to_do_returns_the_images_themselves() -> None:
    pixels = torch.zeros(2, 1, 3, 3)
    assert crop_and_flip(pixels, padding=0, flip=False) is pixels


@pytest.mark.parametrize(("shape", "padding"), [((2, 1, 3, 3), -1), ((1, 3, 3), 1)])
def test_wrong_arguments_are_errors(shape: tuple[int, ...], padding: int) -> None:
    with pytest.raises(ValueError, match="padding >= 0"):
        crop_and_flip(torch.zeros(shape), padding=padding, flip=True)
