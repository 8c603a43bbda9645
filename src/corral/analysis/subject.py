"""What an analysis measures: a trained run with images."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corral.data import AnyData, Images, stratified_subset
from corral.errors import UsageError
from corral.models import Classifier, Clusters
from corral.training import RunFolder, RunInfo, load_model, load_recipe
from corral.training.recipes.recipe import Recipe
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
    """A trained run with the images that it is measured on.

    Attributes:
        model: in eval mode.
        recipe: that trained it.
        info: how it was trained.
        train: its training images.
        test: class-balanced test images to measure on.
        seed: of the random numbers.
        views: what several analyses look at, by name, once made.
    """

    model: Classifier
    recipe: Recipe
    info: RunInfo
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
            raise UsageError(f"run of recipe {self.info.recipe}: this analysis needs a cluster head")
        return clusters


def measured(
    run: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    data: AnyData | None = None,
    data_root: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> AnalysedModel:
    """A finished run and the images to measure it on; arguments and errors are those of `AnalysisCache`."""
    folder = RunFolder(Path(run))
    model, _, info = load_model(folder.path, device=device)
    recipe = load_recipe(folder.path)
    images = data_of(run, info, data=data, root=data_root)
    _, train, _ = prepare_data(recipe, root=data_root, data=images)
    test = images.test
    test = test if n is None or n == len(test) else stratified_subset(test, n, seed=0)
    return AnalysedModel(model, recipe, info, train.to(torch.device(device)), test.to(torch.device(device)), seed)
