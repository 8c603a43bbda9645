"""What an analysis measures: a classifier with images."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corral.attacks.threat import Threat
from corral.data import AnyData, DataSet, Images, stratified_subset
from corral.errors import UsageError
from corral.files import AnyPath
from corral.models import Classifier, Clusters
from corral.training import Run, load_model, load_recipe
from corral.training.start import data_of, prepare_data


def labelled(images: Images) -> tuple[Tensor, Tensor]:
    """All of some images as (n, C, H, W) floats in [0, 1], and their (n,) labels."""
    return images.float(), labels_of(images)


def labels_of(images: Images) -> Tensor:
    """The (n,) labels of images that have them."""
    assert images.labels is not None
    return images.labels


@dataclass(frozen=True)
class AnalysedModel:
    """A classifier with the images that it is measured on.

    Attributes:
        model: in eval mode.
        name: what messages call it.
        data: the data set's name.
        classes: the class names.
        threat: that attacks are bound to; of a run the one that it was trained for.
        train: its training images.
        test: class-balanced test images to measure on.
        seed: of the random numbers.
        views: what several analyses look at, by name, once made.
    """

    model: Classifier
    name: str
    data: str
    classes: tuple[str, ...]
    threat: Threat
    train: Images
    test: Images
    seed: int
    views: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def clusters(self) -> Clusters:
        """The clusters whose distances the model's head decides by.

        Raises:
            UsageError: it has another head, such as a linear one.
        """
        clusters = self.model.head.clusters
        if clusters is None or not clusters.by_distance:
            raise UsageError(f"{self.name}: this analysis needs a cluster head")
        return clusters


def measured_run(
    run: AnyPath,
    *,
    n: int | None = None,
    seed: int = 0,
    data: AnyData | None = None,
    data_root: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> AnalysedModel:
    """A finished run and the images to measure it on; arguments and errors are those of `AnalysisCache`.

    Args:
        run: a finished run's folder.
        n: a class-balanced subset of this many test images; default all.
        seed: of what the analyses draw.
        data: the run's own, where they have no name that leads to them.
        data_root: folder of the data-set files.
        device: where the model goes.
    """
    folder = Run(Path(run))
    model, _, info = load_model(folder.path, device=device)
    images = data_of(run, info, data=data, root=data_root)
    _, train, _ = prepare_data(load_recipe(folder.path), root=data_root, data=images)
    name, threat = f"run of recipe {info.recipe}", Threat(info.norm, info.eps)
    return _measured(model, name, info.data, tuple(info.classes), threat, train, images.test, n, seed, device)


def measured_classifier(
    model: Classifier,
    data: DataSet,
    threat: Threat,
    *,
    name: str = "the classifier",
    n: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> AnalysedModel:
    """A classifier with a data set, on whose test images it is measured; `name` is for messages.

    Args:
        model: the classifier.
        data: its training and test images.
        threat: norm and eps of the attacks.
        name: what messages call it.
        n: a class-balanced subset of this many test images; default all.
        seed: of what the analyses draw.
        device: where the model goes.
    """
    return _measured(model, name, data.name, data.classes, threat, data.train, data.test, n, seed, device)


def _measured(
    model: Classifier,
    name: str,
    data: str,
    classes: tuple[str, ...],
    threat: Threat,
    train: Images,
    test: Images,
    n: int | None,
    seed: int,
    device: torch.device | str,
) -> AnalysedModel:
    test = test if n is None or n == len(test) else stratified_subset(test, n, seed=0)
    where = torch.device(device)
    return AnalysedModel(model, name, data, classes, threat, train.to(where), test.to(where), seed)
