"""What an analysis gives back: numbers and series, and on disk what they were made on."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from corral.documents import Document, read_document
from corral.notebook import Shown
from corral.records import Environment
from corral.strict import AtLeastOne, Radius, Seconds


def _current_name(name: str) -> str:
    from corral.analysis.registry import current_name  # late: the registry needs this file

    return current_name(name)


AnalysisName = Annotated[str, AfterValidator(_current_name)]
"""The name of an analysis in a document; one of an earlier version is read as today's, with a warning."""


# Why a number of the images that are classified right is absent.
NONE_RIGHT = "no test image is classified right"


@dataclass(frozen=True)
class Found:
    """What an analysis measured.

    Attributes:
        numbers: by what they are; fractions, percentages or lengths as the analysis says.
        series: curves, by what they are.
        n: images measured; None where they are the subject's test images.
        absent: what cannot be computed of this run and these images, with the reason; none of it is in `numbers`.
    """

    numbers: dict[str, float]
    series: dict[str, tuple[float, ...]] = field(default_factory=dict)
    n: int | None = None
    absent: dict[str, str] = field(default_factory=dict)


class Analysis(Shown, Document):
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
        absent: what could not be computed, with the reason.
        seconds: that it took.
        environment: versions and device.
    """

    format: Literal["corral-analysis-1", "corral-analysis-2"] = "corral-analysis-2"
    name: AnalysisName
    model_fingerprint: str
    data: str
    n: AtLeastOne
    eps: Radius
    seed: int
    numbers: dict[str, float]
    series: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    absent: dict[str, str] = Field(default_factory=dict)
    seconds: Seconds = 0.0
    environment: Environment

    def __str__(self) -> str:
        return repr(self)

    def _shown(self) -> tuple[str, dict[str, object]]:
        numbers = {name: f"{name} {value:.4g}" for name, value in self.numbers.items()}
        return self.name, {"data": self.data, "images": f"{self.n:,} images", **numbers}

    @model_serializer(mode="wrap")
    def _without_an_empty_list(self, form: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As documents of earlier versions were, where nothing is absent."""
        found: dict[str, Any] = form(self)
        return {key: value for key, value in found.items() if key != "absent" or value}


def mean_number(analyses: Sequence[Analysis], number: str) -> float:
    """The mean of a number over the seeds, all of which have it."""
    return statistics.mean(analysis.numbers[number] for analysis in analyses)


def mean_series(analyses: Sequence[Analysis], name: str) -> tuple[float, ...]:
    """The mean curve over the seeds; empty where no seed has it."""
    curves = [analysis.series[name] for analysis in analyses if name in analysis.series]
    return tuple(statistics.mean(values) for values in zip(*curves, strict=True))


def read_analysis(path: Path) -> Analysis:
    """Read and check an analysis.

    Args:
        path: the file.

    Raises:
        CorralError: missing, not JSON, or not an analysis of this format.
    """
    return read_document(path, Analysis, kind="analysis", command="corral analyze")
