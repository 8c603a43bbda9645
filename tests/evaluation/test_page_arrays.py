import numpy as np
import pytest
import torch

from corral.evaluation.page_arrays import plane


@pytest.mark.parametrize("shape", [(50, 7), (5, 20), (30, 2), (3, 3)])
def test_the_plane_is_that_of_numpys_svd(shape):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(shape, generator=generator) * torch.logspace(0, 1, shape[1]) + 3
    centroids = torch.randn(4, shape[1], generator=generator)
    points, stars, share = plane(features, centroids)
    x = features.double().numpy()
    _, singular, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    signs = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(1)])[:, None]
    two = (axes[:2] * signs).T
    np.testing.assert_allclose(points.numpy(), (x - x.mean(0)) @ two, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(stars.numpy(), (centroids.double().numpy() - x.mean(0)) @ two, rtol=1e-4, atol=1e-4)
    assert share == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum())


def test_one_dimension_lies_on_a_line_and_no_spread_has_no_share():
    points, stars, share = plane(torch.tensor([[1.0], [3.0]]), torch.zeros(0, 1))
    assert points.tolist() == [[-1, 0], [1, 0]]
    assert stars.shape == (0, 2)
    assert share == 1
    same, _, none = plane(torch.ones(4, 3), torch.zeros(0, 3))
    assert same.abs().max() == 0
    assert none == 0
