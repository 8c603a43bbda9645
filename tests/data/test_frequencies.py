"""High frequencies against waves whose frequency is known, and against numpy's transform of the whole plane."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.data.frequencies import high_frequencies


@pytest.mark.parametrize(("down", "across"), [(0, 0), (1, 0), (0, 3), (3, 4), (5, 1), (8, 0)])
def test_a_wave_is_kept_or_dropped_whole_by_its_frequency(down, across):
    rows, columns = torch.arange(16.0).unsqueeze(1), torch.arange(20.0).unsqueeze(0)
    wave = torch.cos(2 * math.pi * (down * rows / 16 + across * columns / 20)).expand(2, 3, 16, 20)
    expected = wave if math.hypot(down, across) >= 5 else torch.zeros_like(wave)
    torch.testing.assert_close(high_frequencies(wave, least=5.0), expected, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=25)
@given(height=st.integers(2, 11), width=st.integers(2, 11), least=st.floats(0.5, 6), seed=st.integers(0, 2**31))
def test_it_is_the_transform_of_the_whole_plane_without_its_middle(height, width, least, seed):
    x = torch.rand(1, 2, height, width, generator=torch.Generator().manual_seed(seed))
    down = np.fft.fftfreq(height, 1 / height)[:, None]
    across = np.fft.fftfreq(width, 1 / width)[None]
    spectrum = np.fft.fft2(x.double().numpy()) * (np.sqrt(down**2 + across**2) >= least)
    expected = torch.from_numpy(np.real(np.fft.ifft2(spectrum))).float()
    torch.testing.assert_close(high_frequencies(x, least=least), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("shape", "least"), [((3, 4, 4), 1.0), ((1, 1, 4, 4), 0.0), ((1, 1, 4, 4), float("nan"))])
def test_what_has_no_frequencies_is_refused(shape, least):
    with pytest.raises(ValueError, match="images and least above 0"):
        high_frequencies(torch.zeros(shape), least=least)
