"""The models that benchmarks and experiments measure: the committed checkpoints, and a few that are trained once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corral.attacks.balls import Norm
from corral.data import DataSet, load, stratified_subset
from corral.training import Run, load_model, train

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "benchmarks"
MNIST = {"data.train": 8000, "model.width": 16, "model.features": 64, "training.epochs": 3, "training.batch_size": 120}
# Minutes of a core; robust enough that nine tenths of AutoAttack's time goes to images that it does not break.
CIFAR10 = {
    "data.train": 10000,
    "data.validation": 0,
    "model.backbone": "resnet",
    "model.depth": 10,
    "model.width": 16,
    "training.epochs": 4,
    "training.batch_size": 128,
    "training.optimiser": "sgd",
    "training.learning_rate": 0.1,
    "training.weight_decay": 5e-4,
    "training.schedule": "cosine",
    "training.milestones": [],
    "training.precision": "bfloat16",
    "training.select": "last",
}
INNER = {"method.inner.steps": 2, "method.inner.step_ratio": 0.75}


@dataclass(frozen=True)
class Subject:
    """A model and its threat.

    Attributes:
        data: name of its data set.
        recipe: it was, or is, trained by; "" for logistic regression.
        checkpoint: its folder in src/corral/zoo; "" where it is trained.
        overrides: of the recipe, where it is trained.
        broken: whether hardly an image is robust at this threat.
    """

    data: str
    recipe: str
    eps: float
    checkpoint: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    norm: Norm = "Linf"
    broken: bool = False

    def images(self, n: int) -> tuple[Tensor, Tensor]:
        """The first n class-balanced test images, and their labels."""
        test = stratified_subset(data_of(self.data).test, n, seed=0)
        assert test.labels is not None
        return test.float(), test.labels

    def model(self) -> nn.Module:
        """The classifier, in eval mode; trained into runs/ if it is neither committed nor there."""
        if self.checkpoint:
            return load_model(ROOT / "src" / "corral" / "zoo" / self.checkpoint)[0].eval()
        if not self.recipe:
            return logistic_regression(data_of(self.data))
        run = Run(RUNS / f"{self.data}-{self.recipe}")
        if not run.model_file.is_file():
            resume = run.recipe_file.is_file()
            train(self.recipe, data=self.data, out=run.path, resume=resume, seed=0, device="cpu", **self.overrides)
        return load_model(run.path)[0].eval()


SUBJECTS = {
    "linear": Subject("mnist", "", 0.03),
    "linear, broken": Subject("mnist", "", 0.15, broken=True),
    "digits at": Subject("digits", "at", 0.1, "digits-at"),
    "digits corral": Subject("digits", "corral", 0.1, "digits-corral"),
    "digits nominal": Subject("digits", "nominal", 0.3, "digits-nominal", broken=True),
    "mnist at": Subject("mnist", "at", 0.1, "mnist-at"),
    "mnist corral": Subject("mnist", "corral", 0.1, "mnist-corral"),
    "mnist nominal": Subject("mnist", "nominal", 0.3, overrides=MNIST, broken=True),
    "cifar10 at": Subject("cifar10", "at", 8 / 255, overrides=CIFAR10 | INNER),
    "cifar10 nominal": Subject("cifar10", "nominal", 16 / 255, overrides=CIFAR10, broken=True),
}


@cache
def data_of(name: str) -> DataSet:
    """A data set, read once."""
    return load(name)


def logistic_regression(data: DataSet) -> nn.Module:
    """A linear model of the pixels, the exact answer to whose attack is known."""
    train_images = data.train
    x, y = train_images.float(torch.arange(min(len(train_images), 8000))), train_images.labels[:8000]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), len(data.classes)))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()
