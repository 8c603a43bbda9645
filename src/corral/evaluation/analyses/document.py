"""What an analysis is given, and what it gives back: numbers and series with what they were made on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from corral.data import Images, load, stratified_subset
from corral.documents import Frozen, read_document
from corral.errors import UsageError
from corral.evaluation.records import Environment, environment
from corral.models import Classifier, ClusterHead
from corral.models.fingerprint import fingerprint
from corral.training import RunFolder, RunInfo, load_model, load_recipe
from corral.training.recipe import Recipe
from corral.training.start import prepare_data

AnalysisName = Literal[
    "along",
    "changes",
    "adversary",
    "features",
    "bounds",
    "radii",
    "match",
    "cosine",
    "compactness",
    "embedding",
    "norms",
    "silhouettes",
    "pursuit",
]


class Analysis(Frozen):
    """One analysis of one run.

    Attributes:
        name: which analysis.
        model_fingerprint: of the weights measured.
        data: the data set.
        n: test images (training images where the analysis is of training).
        eps: radius in pixel units.
        seed: of the random numbers.
        numbers: by what they are; fractions, percentages or lengths as the analysis says.
        series: curves, by what they are.
        seconds: that it took.
        environment: versions and device.
    """

    format: Literal["corral-analysis-1"] = "corral-analysis-1"
    name: AnalysisName
    model_fingerprint: str
    data: str
    n: int = Field(ge=1)
    eps: float = Field(ge=0)
    seed: int
    numbers: dict[str, float]
    series: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    seconds: float = 0.0
    environment: Environment


def clusters_of(model: Classifier, info: RunInfo) -> ClusterHead:
    """The model's cluster head.

    Raises:
        UsageError: it has a linear one.
    """
    if not isinstance(model.head, ClusterHead):
        raise UsageError(f"run of recipe {info.recipe}: this analysis needs a cluster head")
    return model.head


def labelled(images: Images) -> tuple[Tensor, Tensor]:
    """All of some images as (n, C, H, W) floats in [0, 1], and their (n,) labels."""
    assert images.labels is not None
    return images.float(), images.labels


@dataclass(frozen=True)
class Subject:
    """A trained run with the images that it is measured on.

    Attributes:
        model: in eval mode.
        recipe: that trained it.
        info: of its making.
        train: the images it was trained on.
        test: the class-balanced test images to measure on.
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
    def head(self) -> ClusterHead:
        """The cluster head.

        Raises:
            UsageError: the run has a linear one.
        """
        return clusters_of(self.model, self.info)

    def found(
        self, name: AnalysisName, numbers: dict[str, float], series: dict[str, tuple[float, ...]] | None = None
    ) -> Analysis:
        """The analysis as a document."""
        return Analysis(
            name=name,
            model_fingerprint=fingerprint(self.model),
            data=self.info.data,
            n=len(self.test),
            eps=self.info.eps,
            seed=self.seed,
            numbers=numbers,
            series=series or {},
            environment=environment(self.test.pixels.device),
        )


def measured(
    run: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    data_root: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> Subject:
    """A finished run and the images to measure it on.

    Args:
        run: the run folder.
        n: class-balanced test images; None for all.
        seed: of the random numbers.
        data_root: folder of the data-set files.
        device: where to run.

    Raises:
        CorralError: no finished run, or damaged files.
        UsageError: an impossible n.
    """
    folder = RunFolder(Path(run))
    model, _, info = load_model(folder.path, device=device)
    recipe = load_recipe(folder.path)
    _, train, _ = prepare_data(recipe, root=data_root)
    test = load(info.data, root=data_root, code=False).test
    test = test if n is None or n == len(test) else stratified_subset(test, n, seed=0)
    return Subject(model, recipe, info, train.to(torch.device(device)), test.to(torch.device(device)), seed)


def read_analysis(path: Path) -> Analysis:
    """Read and check an analysis.

    Raises:
        CorralError: missing, not JSON, or not an analysis of this format.
    """
    return read_document(path, Analysis, kind="analysis", command="corral analyze")
