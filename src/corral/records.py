"""The result record: what was measured, under which protocol, on what, by which versions."""

import math
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from corral.devices import device_name
from corral.documents import Document, read_document
from corral.errors import UsageError
from corral.notebook import Shown, table_html
from corral.strict import Amount, AtLeastOne, Frozen, OfThreat, Radius, Seconds, Share, WorkClock
from corral.terminal import eps_words
from corral.version import __version__

# What a measured model is: a run of corral's or a classifier in a file, code, a program in a file, or a module.
Kind = Literal["run", "classifier", "python", "torchscript", "export", "module"]
# Attacks' names of today, by those in records of versions before 0.1.0.
EARLIER_NAMES = {"pgd_log": "pgd_ce", "pgd_log_margin": "pgd_cw"}


class AttackResult(OfThreat):
    """One attack at one eps: its full protocol and the accuracy under it.

    `steps` are gradient steps or queries of one restart and target; `step_size` is None where the attack adapts it;
    `forwards` and `backwards` count the images that went through the model.
    """

    name: str
    protocol: str
    norm: Literal["Linf", "L2", "L1"]
    eps: Radius
    steps: Amount
    step_size: Radius | None
    restarts: Amount
    objective: str
    success_rule: Literal["any_iterate", "max_loss_restart"]
    n: AtLeastOne
    accuracy: Share
    per_class: list[Share | None]
    seconds: Seconds
    seed: int
    settings: dict[str, int | float | str | bool] = Field(default_factory=dict)
    forwards: Amount | None = None
    backwards: Amount | None = None

    @model_validator(mode="before")
    @classmethod
    def _earlier(cls, data: Any) -> Any:
        """Records of versions before 0.1.0: `success_rule` was `verdict`, and two attacks had other names."""
        if not isinstance(data, dict) or "verdict" not in data or "success_rule" in data:
            return data
        found = {("success_rule" if key == "verdict" else key): value for key, value in data.items()}
        if isinstance(found.get("name"), str):
            found["name"] = EARLIER_NAMES.get(found["name"], found["name"])
        if isinstance(settings := found.get("settings"), dict):
            found["settings"] = {("success_rule" if key == "verdict" else key): settings[key] for key in settings}
        return found


def pointwise_minimum(
    name: str, results: Sequence[AttackResult], accuracy: float, per_class: list[float | None]
) -> AttackResult:
    """The worst case per image over attacks at one threat as a row of its own, with what they cost together.

    `accuracy` is the share of images that are classified right without attack and under every one.
    """
    return results[0].model_copy(
        update={
            "name": name,
            "protocol": "an image counts as robust only if it is classified right and none of "
            + ", ".join(result.name for result in results)
            + " broke it",
            "steps": max(result.steps for result in results),
            "restarts": sum(result.restarts for result in results),
            "objective": "+".join(dict.fromkeys(result.objective for result in results)),
            "success_rule": "any_iterate",
            "accuracy": accuracy,
            "per_class": per_class,
            "seconds": sum(result.seconds for result in results),
            "settings": {},
            "forwards": sum(result.forwards or 0 for result in results),
            "backwards": sum(result.backwards or 0 for result in results),
        }
    )


class Reported(Frozen):
    """What others report for this method on this data; a page prints it beside what was measured."""

    clean: Share
    robust: Share
    attack: str
    source: str


class Curve(OfThreat):
    """Accuracy against eps under one attack, on the first `n` test examples."""

    attack: str
    norm: Literal["Linf", "L2", "L1"]
    n: AtLeastOne
    eps: list[Radius]
    accuracy: list[Share]


class Environment(Frozen):
    """What the numbers were made with."""

    corral: str
    torch: str
    python: str
    device: str
    threads: Amount
    platform: str


class OfRun(Shown, Document):
    """What every record states: the model, its weights, and the test images it was measured on.

    `run` is what the model is called and `kind` what it is: a run of corral's, or a model that was named by Python code
    or by a file, or given as a module. `recipe`, `method`, `train_seed` and `train_seconds` are None of all but runs,
    `head` of all but corral's classifiers.
    `n` is the number of test examples measured and `n_test` the size of the whole test set. `train_seconds`,
    `work_seconds` and `work_clock` are the run's (`RunInfo`), the latter two None of runs of earlier versions.
    `parameters` is how many numbers the model's parameters have, None likewise; so is `arrays_sha256`, which is of the
    .npz file beside the record. `inputs` are the options by which a
    foreign model was fed, such as "--normalise cifar10".
    """

    run: str
    kind: Kind = "run"
    recipe: str | None
    method: str | None
    head: str | None
    rule: str | None
    data: str
    data_fingerprint: str
    model_fingerprint: str
    n: AtLeastOne
    n_test: AtLeastOne
    train_seed: int | None
    train_seconds: Seconds | None
    work_seconds: Seconds | None = None
    work_clock: WorkClock | None = None
    created: str
    environment: Environment
    notes: list[str] = Field(default_factory=list)
    arrays_sha256: str | None = None
    inputs: list[str] = Field(default_factory=list)
    parameters: Amount | None = None

    @model_validator(mode="after")
    def _part_of_the_test_set(self) -> Self:
        if self.n > self.n_test:
            raise ValueError(f"n {self.n} is above n_test {self.n_test}")
        if self.kind == "run" and None in (self.recipe, self.method, self.head, self.train_seed, self.train_seconds):
            raise ValueError("a run has a recipe, a method, a head, a seed and seconds of training")
        return self

    def __str__(self) -> str:
        return repr(self)

    def _shown(self) -> tuple[str, dict[str, object]]:
        what = self.data if self.recipe is None else f"{self.recipe} on {self.data}"
        of = f" of {self.n_test:,}" if self.n < self.n_test else ""
        return self.run, {"data": what, "images": f"{self.n:,}{of} images"}


class Record(OfRun, OfThreat):
    """One evaluation of one model.

    `accuracy` values are fractions in [0, 1]; a reduced evaluation shows itself (`reduced`). `reported` is a claim, all
    else is measured.
    """

    format: Literal["corral-record-1", "corral-record-2"] = "corral-record-2"
    classes: list[str]
    reduced: bool
    norm: Literal["Linf", "L2", "L1"]
    eps: Radius
    clean: Share
    clean_per_class: list[Share | None]
    attacks: list[AttackResult]
    curves: list[Curve] = Field(default_factory=list)
    eval_seed: int
    eval_seconds: Seconds
    protocol: str = "quick"
    batch_size: Amount | None = None
    reported: Reported | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.reduced != (self.n < self.n_test):
            raise ValueError(f"n {self.n} of n_test {self.n_test} does not go with reduced = {self.reduced}")
        return self

    @property
    def lowest(self) -> AttackResult | None:
        """The attack that leaves the least accuracy, the ensemble's row of equal ones; None where there was none."""
        return min(reversed(self.attacks), key=lambda result: result.accuracy, default=None)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary an attack, with what a comparison of records needs; accuracies are fractions."""
        own = {"run": self.run, "recipe": self.recipe, "data": self.data, "record_protocol": self.protocol}
        measured = {"n": self.n, "n_test": self.n_test, "clean": self.clean, "train_seed": self.train_seed}
        taken: tuple[str, ...] = ("norm", "eps", "accuracy", "steps", "step_size", "restarts", "objective", "seconds")
        taken += ("seed", "forwards", "backwards", "protocol")
        return [
            {**own, "attack": result.name, **measured, **{name: getattr(result, name) for name in taken}}
            | {"n": result.n}
            for result in self.attacks
        ]

    def to_frame(self) -> Any:
        """`rows` as a pandas DataFrame, one row an attack; `pandas.concat` puts those of several records together.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            from pandas import DataFrame  # no dependency: a table is one use of a record among many
        except ImportError as error:
            raise UsageError("Record.to_frame needs pandas: pip install pandas; Record.rows() does without") from error
        return DataFrame(self.rows())

    def _shown(self) -> tuple[str, dict[str, object]]:
        title, facts = super()._shown()
        facts |= {"protocol": f"{self.protocol} at {self.norm} {eps_words(self.eps)}"}
        facts |= {"clean": f"clean {as_percent(self.clean)}%"}
        lowest = self.lowest
        return title, facts if lowest is None else facts | {"lowest": f"{lowest.name} {as_percent(lowest.accuracy)}%"}

    def _repr_html_(self) -> str:
        header = ("attack", "accuracy, %", "images", "steps", "restarts", "seconds")
        rows = [
            (one.name, as_percent(one.accuracy), f"{one.n:,}", one.steps, one.restarts, f"{one.seconds:.1f}")
            for one in self.attacks
        ]
        return super()._repr_html_() + table_html(rows, header)

    @property
    def protocol_name(self) -> str:
        """The protocol's name, with how many images where only a part of the test set was attacked."""
        return f"{self.protocol}, reduced: {self.n:,} of {self.n_test:,} images" if self.reduced else self.protocol


def environment(device: torch.device) -> Environment:
    """The versions and the device that a record states."""
    return Environment(
        corral=__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        device=device_name(device),
        threads=torch.get_num_threads(),
        platform=platform.platform(terse=True),
    )


def now() -> str:
    """The present moment, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_record(path: Path) -> Record:
    """Read and check a record; raises as `read_document`.

    Args:
        path: the file.
    """
    return read_document(path, Record, kind="record", command="corral evaluate")


def as_percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal, or an en dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"
