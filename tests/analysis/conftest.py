import pytest
import torch
from torch import nn

from corral.analysis import AnalysedModel, measured_run
from corral.attacks.threat import Threat
from corral.data import Images
from corral.models import Classifier, ClusterHead
from corral.training import train

TINY = {"data.train": 200, "model.width": 4, "training.epochs": 2, "training.warm_start.epochs": 2}


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """ClusTR+QTRADES as released, a few epochs on a few digits."""
    return train(
        "clustr-qtrades-published",
        out=tmp_path_factory.mktemp("runs") / "released",
        progress=False,
        device="cpu",
        **TINY,
    )


@pytest.fixture(scope="session")
def subject(released):
    return measured_run(released, n=60)


@pytest.fixture
def far(released):
    """A subject whose two centroids a class are so far from every image that float32's exponentials are all zero.

    The backbone is the identity on 2×2 images, the features their four pixels; the log-space scores are affine in them.
    """
    generator = torch.Generator().manual_seed(0)
    centroids = 40 + torch.randn(6, 4, generator=generator)
    head = ClusterHead(centroids, torch.arange(6) % 3, 1.0)
    model = Classifier(nn.Flatten(), head, [0.0], [1.0]).eval()
    pixels = 0.3 + 0.4 * torch.rand(20, 1, 2, 2, generator=generator)
    images = Images(pixels, model(pixels).argmax(1))
    return AnalysedModel(model, "far", "digits", ("0", "1", "2"), Threat("Linf", 0.1), images, images, 0)
