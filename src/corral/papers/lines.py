"""The lines of the results' CSV files: a run, an attack on it, a number of an analysis, and a table's row."""

import hashlib
import tomllib
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from corral.analysis.document import AnalysisName
from corral.evaluation.records import Environment
from corral.strict import Frozen
from corral.training.clock import WorkClock

Norm = Literal["Linf", "L2", "L1"]


class Line(Frozen):
    """One line of a CSV file; an empty cell is the field's default."""


class RunLine(Line):
    """One trained run.

    Attributes:
        run: name of the run folder, which has the digest of the recipe.
        fingerprint: of its weights.
        recipe: what trained it.
        method: of the recipe.
        head: linear or cluster.
        rule: the decision rule of a cluster head.
        data: what it was trained on and attacked on.
        data_fingerprint: of those images.
        classes: of the data set.
        n_test: images of the whole test set.
        norm: of the threat.
        eps: that it was trained for.
        seed: of training.
        train_seconds: of the wall clock, those of the stages before it among them.
        work_seconds: CPU or device seconds, likewise; None where one of the runs does not know them.
        work_clock: which of the two.
        warm_epochs: of the warm start; None where its recipe has no criterion of convergence.
        epochs: of the method, likewise.
        converged: whether the criterion was met, likewise.
    """

    run: str
    fingerprint: str
    recipe: str
    method: str
    head: str
    rule: str | None = None
    data: str
    data_fingerprint: str
    classes: int
    n_test: int
    norm: Norm
    eps: float
    seed: int
    train_seconds: float
    work_seconds: float | None = None
    work_clock: WorkClock | None = None
    warm_epochs: int | None = None
    epochs: int | None = None
    converged: bool | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others."""
        return self.run, self.fingerprint


class Versions(Line):
    """A line that says what it was made with; `device`, `threads` and the rest as in a record."""

    corral: str
    torch: str
    python: str
    device: str
    threads: int
    platform: str

    @property
    def environment(self) -> Environment:
        """The same as a record has it."""
        return Environment(**{name: getattr(self, name) for name in Environment.model_fields})


class AttackLine(Versions):
    """What one attack left of one run.

    Attributes:
        evaluation: which evaluation it is of, `evaluation_id`; the lines of one evaluation stand together, in order.
        run: as in runs.csv.
        fingerprint: as in runs.csv.
        protocol: of the evaluation; several joined by "+" for the worst case over all of them.
        norm: of the threat.
        eps: radius.
        n: test images, class-balanced.
        seed: of the evaluation.
        attack: "clean" for none; its settings are described in code.
        robust: images of n that are classified right under it.
        seconds: that it took.
        forwards: images that went forward through the model.
        backwards: images that went backward.
        settings: of the attack, "key=value" in alphabetical order.
        outcomes: which images are classified right, `packed`; empty where no table needs it or it is not known.
        created: when the evaluation was made.
    """

    evaluation: str
    run: str
    fingerprint: str
    protocol: str
    norm: Norm
    eps: float
    n: int = Field(ge=1)
    seed: int
    attack: str
    robust: int = Field(ge=0)
    seconds: float | None = None
    forwards: int | None = None
    backwards: int | None = None
    settings: str = ""
    outcomes: str = Field(default="", pattern=r"^([0-9a-f]{2})*$")
    created: str

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.robust > self.n:
            raise ValueError(f"robust {self.robust} is above n {self.n}")
        if self.outcomes:
            bits = int(self.outcomes, 16)
            if len(self.outcomes) != 2 * -(-self.n // 8) or bits.bit_count() != self.robust:
                raise ValueError(f"outcomes are not of {self.robust} of {self.n} images")
        return self

    @property
    def accuracy(self) -> float:
        """The share of images that are classified right."""
        return self.robust / self.n


class AnalysisLine(Versions):
    """One number, or one curve, of an analysis of a run.

    Attributes:
        analysis: which analysis it is of, `content_id`.
        run: as in runs.csv.
        fingerprint: as in runs.csv.
        name: of the analysis.
        data: the data set.
        n: images it looked at.
        eps: radius.
        seed: of the random numbers.
        key: what the number or the curve is.
        kind: which of the two.
        values: one number, or those of the curve with spaces between them.
        seconds: that the analysis took.
    """

    analysis: str
    run: str
    fingerprint: str
    name: AnalysisName
    data: str
    n: int
    eps: float
    seed: int
    key: str
    kind: Literal["number", "curve"]
    values: str = ""
    seconds: float


class RowLine(Line):
    """One seed of a table's row: the run that it is of, and the evaluations and analyses that its numbers are from.

    Attributes:
        table: name of the table.
        scale: of the table.
        changed: recipe keys that the caller set on top, "key=value", with "; " between them.
        data: our data set.
        beside: the paper's.
        row: name of the row.
        seed: of training.
        recipe: of the run.
        rule: the decision rule given to the trained head; None is its own.
        run: the run that the row means; what was measured is its twin where `rule` is given.
        fingerprint: of the weights.
        evaluations: ids, as in attacks.csv, with spaces between them.
        analyses: ids, as in analyses.csv, likewise.
        columns: digest of what the table's columns meant; empty in results of earlier versions.
    """

    table: str
    scale: str = ""
    changed: str = ""
    data: str
    beside: str = ""
    row: str
    seed: int
    recipe: str
    rule: str | None = None
    run: str
    fingerprint: str
    evaluations: str
    analyses: str = ""
    columns: str = ""

    @property
    def of(self) -> "RowKey":
        """The row, without the seed."""
        return RowKey(
            table=self.table, scale=self.scale, changed=self.changed, data=self.data, beside=self.beside, row=self.row
        )


class RowKey(Frozen):
    """What names a row of a table."""

    table: str
    scale: str = ""
    changed: str
    data: str
    beside: str
    row: str


def content_id(*parts: object) -> str:
    """Eight hexadecimal digits of a digest."""
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:8]


def changed_words(changed: Mapping[str, object]) -> str:
    """The caller's changes in one cell."""
    return "; ".join(f"{key}={'' if value is None else value}" for key, value in changed.items())


def read_changed(words: str) -> dict[str, Any]:
    """The changes out of a cell."""
    pairs = (part.split("=", 1) for part in words.split("; ")) if words else ()
    return {key: _value(text) for key, text in pairs}


def _value(text: str) -> Any:
    """A value as it was before it stood in a cell."""
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
