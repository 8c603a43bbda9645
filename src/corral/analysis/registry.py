"""The analyses by name: what each measures, what it needs of a run, and how a page shows it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import ValidationError

from corral.analysis.document import Analysis, Found
from corral.analysis.subject import AnalysedModel
from corral.errors import CorralError, UsageError
from corral.models import Classifier
from corral.models.fingerprint import fingerprint
from corral.records import environment
from corral.registry import Registry

UNDEFINED = "not defined on this run and these images"
Measure = Callable[[AnalysedModel], Any]
F = TypeVar("F", bound=Measure)


class Column(NamedTuple):
    """A number as a page shows it.

    Attributes:
        heading: over it.
        number: which.
        scale: the factor to show it with; 100 for percent.
        digits: decimals.
    """

    heading: str
    number: str
    scale: float = 1.0
    digits: int = 3


class CurvePoint(NamedTuple):
    """A point of a curve as a table of several runs shows it, the mean over seeds.

    Attributes:
        heading: over it.
        series: the curve.
        place: index of the point; -1 is the last.
        form: a format specification, such as ".1%".
    """

    heading: str
    series: str
    place: int
    form: str


@dataclass(frozen=True)
class AnalysisKind:
    """An analysis: its function `measure`, and the arguments of `register_analysis`."""

    name: str
    measure: Measure
    title: str
    short: str
    text: str = ""
    columns: tuple[Column, ...] = ()
    unit: str = ""
    needs_clusters: bool = False
    page: int | None = None
    images: Literal["test", "train"] = "test"
    attacks: tuple[str, ...] = ()
    minimal_attacks: tuple[str, ...] = ()
    curve_points: tuple[CurvePoint, ...] = ()
    transposed: bool = False
    earlier: tuple[str, ...] = ()

    def fits(self, model: Classifier) -> bool:
        """Whether a model is of the kind that it needs."""
        clusters = model.head.clusters
        return not self.needs_clusters or (clusters is not None and clusters.by_distance)

    def columns_of(self, numbers: Iterable[str]) -> tuple[Column, ...]:
        """Its columns; where it states none, one for each of the numbers."""
        return self.columns or tuple(Column(number, number) for number in dict.fromkeys(numbers))

    def _absent(self, found: Found) -> dict[str, str]:
        """What a page shows of it that was not computed, with the reason."""
        shown = {column.number: UNDEFINED for column in self.columns} | found.absent
        return {number: reason for number, reason in shown.items() if number not in found.numbers}

    def __call__(self, subject: AnalysedModel) -> Analysis:
        """Measure a subject.

        Raises:
            UsageError: the run is not of the kind that it needs.
            CorralError: an outsider's measurement failed, or what it returned are no numbers.
        """
        if not self.fits(subject.model):
            raise UsageError(f"{subject.name}: this analysis needs a cluster head")
        try:
            found = self.measure(subject)
        except CorralError:
            raise
        except Exception as error:
            if self.measure.__module__.startswith("corral."):
                raise
            raise CorralError(f"analysis {self.name!r} failed ({type(error).__name__}: {error})") from error
        found = Found(dict(found)) if isinstance(found, Mapping) else found
        if not isinstance(found, Found):
            raise CorralError(
                f"analysis {self.name!r} returned {type(found).__name__}, expected its numbers by name or a Found"
            )
        try:
            return Analysis(
                name=self.name,
                model_fingerprint=fingerprint(subject.model),
                data=subject.data,
                n=len(subject.test) if found.n is None else found.n,
                eps=subject.threat.eps,
                seed=subject.seed,
                numbers=found.numbers,
                series=found.series,
                absent=self._absent(found),
                environment=environment(subject.test.device),
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CorralError(f"analysis {self.name!r}: {where}: {first['msg']}, found {first['input']!r}") from error


def _registered(thing: object) -> AnalysisKind:
    """What a target names: a function that is registered."""
    for _, kind in ANALYSES.items():
        if kind.measure is thing:
            return kind
    raise TypeError('it is not registered: put @corral.register.analysis("name") above it')


ANALYSES: Registry[AnalysisKind] = Registry(
    "analysis", group="corral.analyses", package="corral.analysis", check=_registered
)


def current_name(name: str) -> str:
    """The name of today of an analysis, with a warning where it is an earlier version's; others stay as they are."""
    return ANALYSES[name].name if name in ANALYSES else name


def described(name: str) -> AnalysisKind:
    """How a page shows an analysis of this name; plainly, with all numbers, where it is not registered here."""
    if name in ANALYSES:
        return ANALYSES[name]

    def unknown(_: AnalysedModel) -> Found:
        raise UsageError(f"unknown analysis {name!r}")

    return AnalysisKind(name, unknown, title=name, short=name)


def register_analysis(
    name: str,
    *,
    title: str = "",
    short: str = "",
    text: str = "",
    columns: Sequence[tuple[str, str, float, int]] = (),
    unit: str = "",
    needs_clusters: bool = False,
    page: int | None = None,
    images: Literal["test", "train"] = "test",
    attacks: Sequence[str] = (),
    minimal_attacks: Sequence[str] = (),
    curve_points: Sequence[CurvePoint] = (),
    transposed: bool = False,
    earlier: Sequence[str] = (),
) -> Callable[[F], F]:
    """Register a function that measures a run; a decorator.

    The function takes a `corral.analysis.AnalysedModel` and returns its numbers by name, or a `corral.analysis.Found`.

    Args:
        name: of its documents, and what `corral analyze --only` takes.
        title: what it asks; default the name.
        short: its name over columns of a table; default the title.
        text: what was done and how to read it.
        columns: heading, number, factor and decimals of what a page shows; default every number.
        unit: of the numbers, over the seeds of a table.
        needs_clusters: it is of a cluster head, and refuses other runs.
        page: its place among those that `corral analyze` makes by default; None where it is made only by name.
        images: the images it measures.
        attacks: with which it moves images within the run's eps.
        minimal_attacks: with which it looks for the nearest misclassified image.
        curve_points: points of its curves that a table of several runs shows behind the columns.
        transposed: a table of several runs has a line for each number and a column for each run.
        earlier: names that it had in earlier versions; documents and calls with them are read, with a warning.

    Returns:
        A decorator that leaves the function as it is.

    Raises:
        UsageError: a name that is taken, or not of letters, digits, - and _.
    """

    if not re.fullmatch(r"[\w-]+", name):
        raise UsageError(f"an analysis names a file: letters, digits, - and _, found {name!r}")

    def added(measure: F) -> F:
        kind = AnalysisKind(
            name,
            measure,
            title=title or name,
            short=short or title or name,
            text=text,
            columns=tuple(Column(*column) for column in columns),
            unit=unit,
            needs_clusters=needs_clusters,
            page=page,
            images=images,
            attacks=tuple(attacks),
            minimal_attacks=tuple(minimal_attacks),
            curve_points=tuple(curve_points),
            transposed=transposed,
            earlier=tuple(earlier),
        )
        ANALYSES.add(name, kind, source=measure)
        for other in earlier:
            ANALYSES.alias(other, name, earlier=True)
        return measure

    return added
