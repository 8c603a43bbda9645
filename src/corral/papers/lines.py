"""The lines of the results' CSV files: a run, an attack on it, a number of an analysis, a seed of a table's row."""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from corral.analysis.document import AnalysisName
from corral.reading import parse_toml
from corral.records import Environment
from corral.strict import Amount, AtLeastOne, Frozen, Radius, Seconds, WorkClock

# The digest of a line that somebody changed by hand.
EDITED = "edited"
Norm = Literal["Linf", "L2", "L1"]


class Line(Frozen):
    """One line of a CSV file; an empty cell is the field's default.

    Attributes:
        digest: in the file, of the line's other cells and the number of lines of its group; in memory empty, or
            "edited" of a line that was edited since it was written and accepted all the same.
        lines: in the first line of a file, how many it has; None elsewhere and in memory.
    """

    digest: str = ""
    lines: int | None = None

    @property
    def group(self) -> str:
        """What the lines that stand together have in common; empty where there are none."""
        return ""

    @property
    def words(self) -> str:
        """Which line it is, in a message."""
        return self.group


class RunLine(Line):
    """One trained run; columns without a word here are as in a record.

    Attributes:
        run: name of the run folder, which has the digest of the recipe.
        fingerprint: of its weights.
        classes: how many the data set has.
        eps: that it was trained for.
        forwards: images that went forward through the network in training, as far as that was counted (the arena's
            runs, which have `epochs` too).
        backwards: images that went backward, likewise.
        train_seconds: of the wall clock, those of the stages before it among them.
        work_seconds: CPU or device seconds, as `work_clock` says, likewise; None where one of the runs has none.
        warm_epochs: of the warm start; None where nothing but its number of epochs could end it, as the next.
        epochs: of the method.
        converged: whether the criterion of convergence was met; None where its recipe has none.
        stopped: what else ended it early; None for nothing.
    """

    run: str
    fingerprint: str
    recipe: str
    method: str
    head: str
    rule: str | None = None
    data: str
    data_fingerprint: str
    classes: Amount
    n_test: Amount
    norm: Norm
    eps: Radius
    seed: int
    train_seconds: Seconds
    work_seconds: Seconds | None = None
    work_clock: WorkClock | None = None
    warm_epochs: Amount | None = None
    epochs: Amount | None = None
    converged: bool | None = None
    stopped: Literal["patience", "collapse"] | None = None
    forwards: Amount | None = None
    backwards: Amount | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Run and fingerprint, which identify it."""
        return self.run, self.fingerprint

    @property
    def words(self) -> str:
        """The run."""
        return f"run {self.run}"


class Versions(Line):
    """A line that says what it was made with; `device`, `threads` and the rest as in a record."""

    corral: str
    torch: str
    python: str
    device: str
    threads: Amount
    platform: str

    @property
    def environment(self) -> Environment:
        """The same as a record has it."""
        return Environment(**{name: getattr(self, name) for name in Environment.model_fields})


class AttackLine(Versions):
    """One attack on one run; `run` and `fingerprint` are as in runs.csv.

    Attributes:
        evaluation: id of the evaluation, whose lines stand together, in order.
        protocol: of the evaluation; several joined by "+" for the worst case over all of them.
        n: test images, class-balanced.
        seed: of the evaluation.
        attack: "clean" for none.
        robust: images of n that are classified right under it.
        forwards: images that went forward through the model.
        backwards: images that went backward.
        settings: of the attack, "key=value" in alphabetical order.
        outcomes: which images are classified right, `packed`; empty where no table needs it or it is not known.
    """

    evaluation: str
    run: str
    fingerprint: str
    protocol: str
    norm: Norm
    eps: Radius
    n: int = Field(ge=1)
    seed: int
    attack: str
    robust: int = Field(ge=0)
    seconds: Seconds | None = None
    forwards: Amount | None = None
    backwards: Amount | None = None
    settings: str = ""
    outcomes: str = Field(default="", pattern=r"^([0-9a-f]{2})*$")
    created: str

    @property
    def group(self) -> str:
        """The evaluation."""
        return self.evaluation

    @property
    def words(self) -> str:
        """The attack."""
        return f"attack {self.attack} ({self.protocol}) on {self.run}"

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
    """One number, or one curve, of an analysis of a run; `run` and `fingerprint` are as in runs.csv.

    Attributes:
        analysis: id of the analysis, whose lines stand together.
        n: images it measured.
        key: what the number or the curve is.
        values: one number, or those of the curve with spaces between them.
    """

    analysis: str
    run: str
    fingerprint: str
    name: AnalysisName
    data: str
    n: AtLeastOne
    eps: Radius
    seed: int
    key: str
    kind: Literal["number", "curve"]
    values: str = ""
    seconds: Seconds

    @property
    def group(self) -> str:
        """The analysis."""
        return self.analysis

    @property
    def words(self) -> str:
        """The number."""
        return f"{self.key} of analysis {self.name} of {self.run}"


class RowLine(Line):
    """One seed of a table's row: the run that it is of, and the evaluations and analyses that its numbers are from.

    Attributes:
        changed: recipe keys that the caller set on top, "key=value", with "; " between them.
        data: our data set.
        beside: the paper's.
        rule: the decision rule given to the trained head; None is its own.
        run: the run that the row means; what was measured is its twin where `rule` is given.
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
    def group(self) -> str:
        """The row."""
        return "|".join(getattr(self, name) for name in RowKey.model_fields)

    @property
    def words(self) -> str:
        """The row and its seed."""
        return f"row {self.row!r} of {self.table} on {self.data}, seed {self.seed}"

    @property
    def of(self) -> "RowKey":
        """The row, without the seed."""
        return RowKey(**{name: getattr(self, name) for name in RowKey.model_fields})


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
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text
