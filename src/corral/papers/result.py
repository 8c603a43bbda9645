"""What came of a table: every number with its seeds and records, as JSON."""

import statistics
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from corral.analysis import Analysis
from corral.documents import Document, read_document
from corral.records import Environment
from corral.strict import Frozen, OfThreat, Radius, Seconds, WorkClock
from corral.training.convergence import Ending

# What a row is marked with whose numbers somebody changed since they were written, and accepted.
BY_HAND = "edited by hand"
# What a row is marked with that was not made again since its setting or its recipe changed.
EARLIER = "of an earlier setting"


def packed(kept: NDArray[np.bool_]) -> str:
    """Truth values (n,) as hexadecimal digits, the first value the highest bit, zeros at the end."""
    return np.packbits(kept).tobytes().hex()


def unpacked(kept: str, n: int) -> NDArray[np.bool_]:
    """The truth values (n,) that `packed` wrote."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(kept), dtype=np.uint8))[:n].astype(bool)


def worst_case(attack: str) -> str:
    """What the worst case of attacks is called: “sound” if Auto-PGD, as AutoAttack has it, is among these words."""
    return "sound" if "APGD" in attack else "worst PGD"


class Measured(Frozen):
    """One number of a row, by training seed.

    Attributes:
        values: a fraction, or a number in its column's unit, for each seed.
        attack: in words.
        kept: which test images were classified right, `packed`, for each seed; empty where that is not known, and for
            what is no accuracy.
    """

    values: tuple[float, ...]
    attack: str
    kept: tuple[Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})+$")], ...] = ()

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def _share(measured: Measured) -> Measured:
    """A measured accuracy, if it is one."""
    if not all(0 <= value <= 1 for value in measured.values):
        raise ValueError(f"an accuracy is from 0 to 1, found {max(measured.values, key=abs):g}")
    return measured


Accuracy = Annotated[Measured, AfterValidator(_share)]


class ResultRow(OfThreat):
    """One method on one data set.

    Attributes:
        name: as printed in the paper.
        published: printed percent, by column.
        minutes: printed training time.
        protocol: ours under the paper's protocol, by column.
        sound: ours under the worst of all attacks that were run, by eps as a multiple of the run's own.
        train_seconds: of the wall clock, by seed; those of the stages before it among them.
        work_seconds: CPU or device seconds, as `work_clock` says, likewise; empty where one of the runs has none.
        endings: by seed, how and when training ended; empty where nothing but its number of epochs could end it.
        eps: the run's own radius.
        runs: names of the run folders, by seed; each has the digest of its recipe.
        rule: the decision rule given to the trained heads; None is their own.
        created: when the last of its evaluations was made.
        environment: of the first; `environments` has all, empty in results of earlier versions.
        analyses: by name, one a seed.
        fingerprints: of the weights that were measured, by seed; empty in results of earlier versions.
        records: files beside this one, by seed, in results of versions before 0.1.0, which had them.
        columns: what every column meant, likewise.
        earlier: made with a setting or a recipe that the table has no more; shown, and compared with no row of today's.
        edited: with a number that was edited since it was written.
    """

    name: str
    recipe: str
    remark: str
    seeds: tuple[int, ...]
    published: dict[str, float]
    minutes: float | None
    protocol: dict[str, Measured]
    sound: dict[str, Accuracy]
    train_seconds: tuple[Seconds, ...]
    eps: Radius
    norm: str
    runs: tuple[str, ...]
    rule: Literal["soft", "nearest", "fuzzy"] | int | None
    created: str
    environment: Environment
    analyses: dict[str, tuple[Analysis, ...]] = Field(default_factory=dict)
    fingerprints: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    columns: dict[str, str] = Field(default_factory=dict)
    environments: tuple[Environment, ...] = ()
    earlier: bool = False
    edited: bool = False

    work_seconds: tuple[Seconds, ...] = ()
    work_clock: WorkClock | None = None
    endings: tuple[Ending, ...] = ()

    @property
    def shown(self) -> str:
        """The name as tables print it."""
        marks = [mark for mark, so in ((EARLIER, self.earlier), (BY_HAND, self.edited)) if so]
        return f"{self.name} ({', '.join(marks)})" if marks else self.name

    @model_validator(mode="after")
    def _one_a_seed(self) -> "ResultRow":
        expected = len(self.seeds) if self.work_clock is not None else 0
        if len(self.work_seconds) != expected or len(self.endings) not in (0, len(self.seeds)):
            raise ValueError(f"row {self.name!r} has seconds of work or endings of other seeds than its own")
        return self


class ResultPart(Frozen):
    """One data set of `classes` classes: `n` of `n_test` test images were attacked.

    `data_fingerprint` is that of its images; None in results of earlier versions.
    """

    data: str
    beside: str
    n: int = Field(ge=1, le=2**53)
    n_test: int = Field(ge=1, le=2**53)
    classes: int = Field(ge=2, le=2**53)
    rows: tuple[ResultRow, ...]
    data_fingerprint: str | None = None

    def worst(self, factor: str) -> str:
        """What the worst case at a multiple of the training eps is called: “sound” where it is for every row."""
        names = {worst_case(row.sound[factor].attack) for row in self.rows if factor in row.sound}
        return names.pop() if len(names) == 1 else "worst PGD"

    @model_validator(mode="after")
    def _images_as_counted(self) -> "ResultPart":
        for row in self.rows:
            for measured in (*row.protocol.values(), *row.sound.values()):
                if measured.kept and len(measured.kept) != len(measured.values):
                    raise ValueError(f"row {row.name!r} keeps the images of {len(measured.kept)} seeds, expected all")
                for kept, value in zip(measured.kept, measured.values, strict=False):
                    whole = len(kept) == 2 * -(-self.n // 8)
                    # Half an image: an accuracy may be rounded, a count may not be off.
                    if not whole or abs(int(unpacked(kept, self.n).sum()) - value * self.n) > 0.5:
                        raise ValueError(f"row {row.name!r} keeps other images of {self.n} than its accuracy says")
        return self


class Result(Document):
    """A table as far as it was made: rows may be of several calls.

    `changed` are recipe keys that the caller set on top of the scale's, as text, "RECIPE:" before those of one recipe.
    """

    format: Literal["corral-table-1", "corral-table-2"] = "corral-table-2"
    table: str
    scale: str
    changed: dict[str, str] = Field(default_factory=dict)
    parts: tuple[ResultPart, ...]


def bare(part: ResultPart) -> ResultPart:
    """A part without what is for comparisons and figures alone: the images behind accuracies, and curves."""

    def numbers(found: dict[str, Measured]) -> dict[str, Measured]:
        return {name: measured.model_copy(update={"kept": ()}) for name, measured in found.items()}

    rows = []
    for row in part.rows:
        analyses = {
            name: tuple(analysis.model_copy(update={"series": {}}) for analysis in found)
            for name, found in row.analyses.items()
        }
        changes = {"protocol": numbers(row.protocol), "sound": numbers(row.sound), "analyses": analyses}
        rows.append(row.model_copy(update=changes))
    return part.model_copy(update={"rows": tuple(rows)})


def read_result(path: Path) -> Result:
    """Read and check a result.

    Raises:
        CorralError: missing, not JSON, or not a table of this format.
    """
    return read_document(path, Result, kind="table", command="corral reproduce")
