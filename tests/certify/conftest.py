import pytest
import torch


def make(seed, clusters, classes, dimension, *, scale=1.0, count=40, trouble="none"):
    """Features and centroids with one kind of trouble: near-ties, duplicate or close centroids, large offsets."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    owners = torch.arange(clusters * classes) % classes
    centroids = normal(clusters * classes, dimension)
    features = normal(count, dimension) + centroids[torch.randint(len(centroids), (count,), generator=generator)]
    if trouble == "duplicates" and clusters > 1:
        centroids[owners == 0] = centroids[0].clone()
    if trouble == "close centroids":
        centroids[1] = centroids[0] + 1e-7 * normal(dimension)
    if trouble == "ties":
        middle = (centroids[0] + centroids[1]) / 2
        features[: count // 2] = middle + 1e-8 * normal(count // 2, dimension)
    if trouble == "far":
        features = features + 1e4
    return scale * features, scale * centroids, owners


@pytest.fixture(scope="session")
def configuration():
    return make
