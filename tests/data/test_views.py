"""Random views: what each part does where its outcome is known, and whose random numbers it takes."""

import pytest
import torch

from corral.data.views import Augmentation, random_views

NONE = Augmentation(smallest=1.0, jitter=0.0, jitter_probability=0.0, gray=0.0, blur=0.0, flip=0.0)


def images(channels=3, size=16, count=12, seed=0):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def changed(**parts):
    return Augmentation(**{**NONE.__dict__, **parts})


def test_nothing_asked_for_is_the_image():
    assert torch.equal(random_views(images(), NONE, generator=generator()), images())


def test_a_certain_mirror_is_the_mirror_image():
    found = random_views(images(), changed(flip=1.0), generator=generator())
    torch.testing.assert_close(found, images().flip(3))


def test_half_of_the_images_are_mirrored():
    x = images(count=1000, size=4)
    found = random_views(x, changed(flip=0.5), generator=generator())
    share = float((found == x).flatten(1).all(1).float().mean())
    assert abs(share - 0.5) < 0.06


def test_a_certain_gray_view_has_one_luminance_in_all_channels():
    found = random_views(images(), changed(gray=1.0), generator=generator())
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    torch.testing.assert_close(found, (images() * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1))


def test_a_crop_of_a_constant_image_is_the_image_and_one_of_a_slope_lies_inside_it():
    plain = torch.full((6, 3, 16, 16), 0.3)
    torch.testing.assert_close(random_views(plain, changed(smallest=0.1), generator=generator()), plain)
    slope = torch.linspace(0, 1, 16).expand(6, 3, 16, 16)
    found = random_views(slope, changed(smallest=0.1), generator=generator())
    across = found[:, 0, 0]
    # A crop shows a part of the slope, evenly resized.
    torch.testing.assert_close(across.diff(dim=1), across.diff(dim=1)[:, :1].expand(-1, 15), atol=2e-4, rtol=0)
    extents = across[:, -1] - across[:, 0]
    assert bool((extents < 1 + 1e-5).all())
    assert float(extents.min()) < 0.9


def test_a_blur_keeps_constants_and_lowers_the_variance():
    x = images()
    found = random_views(x, changed(blur=1.0), generator=generator())
    # The narrowest kernels, of a tenth of a pixel, change nothing.
    assert bool((found.flatten(1).var(1) < x.flatten(1).var(1) + 1e-6).all())
    assert float(found.flatten(1).var(1).median()) < 0.5 * float(x.flatten(1).var(1).median())
    plain = torch.full((2, 3, 8, 8), 0.7)
    torch.testing.assert_close(random_views(plain, changed(blur=1.0), generator=generator()), plain)


def test_the_jitter_is_torchvision_s():
    """Gray images: brightness multiplies by b, contrast c blends with the mean, so that means and slopes tell both."""
    x = 0.25 + 0.05 * images(1, count=400)
    view = random_views(x, changed(jitter=0.5, jitter_probability=1.0), generator=generator(2)).flatten(1).double()
    flat = x.flatten(1).double()
    brightness = view.mean(1) / flat.mean(1)
    centred, moved = flat - flat.mean(1, keepdim=True), view - view.mean(1, keepdim=True)
    slope = (centred * moved).sum(1) / centred.square().sum(1)
    torch.testing.assert_close(moved, slope[:, None] * centred, atol=1e-6, rtol=0)
    for factor in (brightness, slope / brightness):
        assert 0.6 - 1e-5 < float(factor.min()) < 0.62
        assert 1.38 < float(factor.max()) < 1.4 + 1e-5


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 9)])
def test_views_are_images_of_the_same_shape(channels, size):
    x = images(channels, size)
    found = random_views(x, Augmentation(), generator=generator())
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert not torch.equal(found, x)


def test_the_generator_alone_decides():
    x = images()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same = (random_views(x, Augmentation(), generator=generator(3)) for _ in range(2))
    assert torch.equal(one, same)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one, random_views(x, Augmentation(), generator=generator(4)))
    both = generator(3)
    first, second = (random_views(x, Augmentation(), generator=both) for _ in range(2))
    assert torch.equal(first, one)
    assert not torch.equal(second, one)


def test_autocast_changes_nothing():
    """In bfloat16 the corners of a crop move, and with them pixels by up to a tenth of their range."""
    expected = random_views(images(), Augmentation(), generator=generator(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(random_views(images(), Augmentation(), generator=generator(3)), expected)


def test_weakening_goes_from_all_to_mirrors_alone():
    full = Augmentation()
    assert full.weakened(1.0).__dict__ == pytest.approx(full.__dict__)
    assert full.weakened(0.0) == changed(flip=0.5)
    half = full.weakened(0.5)
    assert half.smallest == pytest.approx(0.54)
    assert (half.jitter, half.jitter_probability, half.gray, half.blur) == (0.25, 0.4, 0.1, 0.25)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="1 or 3 channels, found 2"):
        random_views(images(2), Augmentation(), generator=generator())
