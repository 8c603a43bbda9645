"""Random-resized crops against the rules by hand, torch's own interpolation, and Pillow's."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from corral.data.crops import DRAWN, RATIOS, Crop, Crops, box_of, cropped


def crops(smallest: float = 0.08, seed: int = 0) -> Crops:
    return Crops(smallest, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("width", "height"), [(224, 224), (500, 375), (30, 400), (1, 1), (7, 3)])
def test_parts_lie_inside_and_have_the_shares_and_ratios_that_were_asked_for(width, height):
    boxes = [box_of(row, 0.25, width, height) for row in crops().draw(300).tolist()]
    for left, top, across, down in boxes:
        assert across >= 1
        assert down >= 1
        assert 0 <= left <= width - across
        assert 0 <= top <= height - down
    if min(width, height) > 200:  # whole pixels round ratios of small ones
        ratios = [across / down for _, _, across, down in boxes]
        assert min(ratios) > RATIOS[0] - 0.02
        assert max(ratios) < RATIOS[1] + 0.02
        assert min(across * down for _, _, across, down in boxes) > 0.24 * width * height


def test_areas_and_the_logarithms_of_ratios_are_uniform_where_every_part_fits():
    """Of shares up to 0.4, a part of any ratio fits a square: nothing is drawn again."""
    numbers = crops().draw(20_000)
    numbers[:, 0:-2:2] *= 0.3 / 0.9  # areas from 0.1 to 0.4
    boxes = torch.tensor([box_of(row, 0.1, 1000, 1000) for row in numbers.tolist()]).double()
    areas, ratios = boxes[:, 2] * boxes[:, 3] / 1e6, (boxes[:, 2] / boxes[:, 3]).log()
    low, high = map(math.log, RATIOS)
    for found, least, most in ((areas, 0.1, 0.4), (ratios, low, high)):
        expected = torch.linspace(least, most, 9, dtype=torch.float64)
        quantiles = torch.quantile(found, torch.linspace(0, 1, 9, dtype=torch.float64))
        assert torch.allclose(quantiles, expected, atol=0.03 * (most - least))


def test_what_never_fits_is_the_largest_middle_part_of_an_allowed_ratio():
    assert box_of([0.999] * DRAWN, 1.0, 400, 100) == (133, 0, 133, 100)
    assert box_of([0.0] * DRAWN, 1.0, 90, 400) == (0, 140, 90, 120)


def test_a_share_of_one_of_a_square_is_the_image():
    """Of ratio 1 alone a part of all pixels fits."""
    numbers = torch.full((3, DRAWN), 0.5)
    pixels = torch.randint(256, (3, 2, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cropped(pixels, numbers, 1.0), pixels)


@pytest.mark.parametrize(("height", "width"), [(9, 9), (32, 32), (12, 20)])
def test_parts_of_arrays_are_those_of_torch_s_interpolation(height, width):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(20, 3, height, width, generator=generator)
    numbers = crops(0.2).draw(20)
    found = cropped(pixels, numbers, 0.2)
    for image, row, part in zip(pixels, numbers.tolist(), found, strict=True):
        left, top, across, down = box_of(row, 0.2, width, height)
        inside = image[None, :, top : top + down, left : left + across]
        expected = functional.interpolate(inside, (height, width), mode="bilinear", align_corners=False)
        assert torch.allclose(part, expected[0], atol=2e-5)
    levels = (pixels * 255).round().byte()
    rounded = cropped(levels, numbers, 0.2)
    assert rounded.dtype == torch.uint8
    assert (rounded.float() - 255 * cropped(levels / 255, numbers, 0.2)).abs().max() <= 0.501


def test_a_picture_s_part_is_cut_from_the_whole_picture():
    levels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    numbers = crops().draw(1)[0].tolist()
    left, top, across, down = box_of(numbers, 0.08, 80, 50)
    expected = Image.fromarray(levels[top : top + down, left : left + across]).resize(
        (16, 16), Image.Resampling.BILINEAR
    )
    found = Crop(numbers, 0.08, (16, 16)).applied(Image.fromarray(levels), "here")
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_equally_many_numbers_are_drawn_whatever_the_images():
    one, other = crops(), crops()
    whole = one.draw(10)
    assert torch.equal(torch.cat([other.draw(4), other.draw(6)]), whole)
