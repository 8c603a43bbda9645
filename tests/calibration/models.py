"""Models whose right verdict is known, trained on 8×8 digits in seconds: what the diagnostics are calibrated on.

Import it as `tests.calibration.models`: `python -m pytest` and `python -m benchmarks...` at the repository's root find
it. Each function trains once a process; on one thread all of them take about half a minute.
"""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import corral
from corral.data import DataSet, load
from corral.losses.mat import ftc, so
from corral.models import Classifier, ClusterHead, PublishedHead
from corral.models.backbones.convnet import ConvNet

# What every calibration runs at: 8×8 digits are so small that a nominal model keeps half its accuracy at 0.1.
EPS = 0.15


@cache
def digits() -> DataSet:
    """The data set that all models are trained on."""
    return load("digits")


def images(count: int = 200) -> tuple[Tensor, Tensor]:
    """The first test images, (count, 1, 8, 8) in [0, 1], and their (count,) labels."""
    test = digits().test
    return test.float(torch.arange(count)), test.labels[:count]


def _trained(recipe: str, epochs: int, **overrides: object) -> Classifier:
    with tempfile.TemporaryDirectory() as folder:
        settings = {"training.epochs": epochs, "training.seed": 0, **overrides}
        corral.train(recipe, out=Path(folder) / "run", device="cpu", progress=False, **settings)
        return corral.load(Path(folder) / "run")


@cache
def nominal() -> nn.Module:
    """Cross-entropy on clean images."""
    return _trained("nominal", 8)


@cache
def pgd_trained() -> nn.Module:
    """Madry's adversarial training."""
    return _trained("at", 8)


@cache
def corral_trained() -> nn.Module:
    """corral's own recipe: log-space cluster logits. A control: clusters alone mask nothing."""
    return _trained("corral", 5)


@cache
def linear() -> nn.Module:
    """Logistic regression. A control: its gradients are the same everywhere."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x, y = _training_images()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(200):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


@cache
def published_clustr() -> nn.Module:
    """ClusTR+QTRADES by the released code, its exponentiated scores handed over as logits.

    A consistency weight of 30 instead of 8 makes up for digits' few pixels: it masks as 8 does on MNIST.
    """
    model = _trained("clustr-qtrades-published", 8, **{"method.consistency_weight": 30.0})
    assert isinstance(model.head, ClusterHead)
    return model.with_head(PublishedHead(model.head, nearest=10)).eval()


class SimplexClassifier(nn.Module):
    """MAT's classifier: features, and a plain linear layer of the fixed centres for the cosine (its section 3.3)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ConvNet(1, 8, width=16, features=64, rectify=False)
        self.register_buffer("centres", simplex(10, 64))

    def features(self, x: Tensor) -> Tensor:
        return self.backbone(x - 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) @ self.centres.T


def simplex(classes: int, features: int) -> Tensor:
    """(classes, features) unit vectors of pairwise cosine -1 / (classes - 1)."""
    centred = torch.eye(classes) - 1 / classes
    return F.pad(F.normalize(centred, dim=1), (0, features - classes))


@cache
def mat_so_only() -> nn.Module:
    """MAT with FTC + weight × SO alone: ||f|| grows until the softmax of its logits saturates.

    The weight grows geometrically after five epochs of FTC: at once, SO is smallest where all features agree.
    """
    epochs, alone, last_weight = 30, 5, 3e4
    torch.manual_seed(0)
    model = SimplexClassifier()
    x, y = _training_images()
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    for epoch in range(epochs):
        weight = 0.0 if epoch < alone else last_weight ** ((epoch - alone) / (epochs - alone - 1))
        for rows in torch.randperm(len(x)).split(100):
            features = model.features(x[rows])
            terms = ftc(features, model.centres, y[rows]), so(features, model.centres, y[rows])
            optimiser.zero_grad()
            (terms[0] + weight * terms[1]).mean().backward()
            optimiser.step()
    return model.eval()


class Quantised(nn.Module):
    """A model behind rounding to a few grey levels: its gradient by the image is zero everywhere."""

    def __init__(self, model: nn.Module, levels: int = 6) -> None:
        super().__init__()
        self.model, self.levels = model, levels

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * self.levels).round() / self.levels)


class AlwaysDropping(nn.Module):
    """A classifier with dropout on its features that `eval()` does not switch off."""

    def __init__(self, model: Classifier, share: float = 0.3) -> None:
        super().__init__()
        self.model, self.share = model, share

    def forward(self, x: Tensor) -> Tensor:
        return self.model.logits_from(F.dropout(self.model.features(x), self.share, training=True))


@cache
def quantised() -> nn.Module:
    """The nominal model behind rounding."""
    return Quantised(nominal()).eval()


@cache
def dropping() -> nn.Module:
    """The nominal model with dropout on."""
    return AlwaysDropping(nominal()).eval()


def _training_images() -> tuple[Tensor, Tensor]:
    train = digits().train
    return train.float(torch.arange(len(train))), train.labels


# Name, maker, right verdict; the first six are the issue's, the other two guard against false alarms.
MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "nominal": (nominal, "pass"),
    "pgd-trained": (pgd_trained, "pass"),
    "published-clustr": (published_clustr, "masked"),
    "mat-so-only": (mat_so_only, "masked"),
    "quantised": (quantised, "masked"),
    "dropout-on": (dropping, "masked"),
    "corral-trained": (corral_trained, "pass"),
    "linear": (linear, "pass"),
}
