"""Losses and distances compute in float32 or wider, whatever surrounds them."""

import pytest
import torch

from corral import losses
from corral.precision import full_precision


def arguments(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(12, 32, generator=generator).to(dtype)
    centroids = torch.randn(4, 32, generator=generator)
    return features, torch.arange(12) % 4, centroids, torch.tensor([0, 1, 2, 0])


CALLS = {
    "magnet": lambda f, a, c, k: losses.magnet(f, a, c, k, alpha=20.0),
    "magnet_batch": lambda f, a, c, k: losses.magnet_batch(f, a, k, alpha=20.0),
    "magnet_published": lambda f, a, c, k: losses.magnet_published(f, a, c, k, alpha=2.0, variance=20.0),
    "batch_centroids": lambda f, a, c, k: losses.batch_centroids(f, a, 4),
    "kl": lambda f, a, c, k: losses.kl(f, f.flip(0)),
    "mse": lambda f, a, c, k: losses.mse(f, f.flip(0)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_autocast_changes_nothing(call):
    exact = call(*arguments())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(call(*arguments()), exact)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_bfloat16_features_are_widened_first(call):
    features, *rest = arguments(torch.bfloat16)
    found = call(features, *rest)
    assert found.dtype == torch.float32
    assert torch.equal(found, call(features.float(), *rest))


def test_wider_tensors_and_other_arguments_pass_unchanged():
    @full_precision
    def parts(x, count, *, flag):
        return x.dtype, count, flag

    assert parts(torch.zeros(1, dtype=torch.float64), 3, flag=True) == (torch.float64, 3, True)
    assert parts(torch.zeros(1, dtype=torch.int16), 3, flag=False) == (torch.int16, 3, False)
    assert parts(torch.zeros(1, dtype=torch.float16), 0, flag=False) == (torch.float32, 0, False)
    assert full_precision(lambda: 7)() == 7
