"""The record of an audit: what was asked, what was measured on how many images, and what it means."""

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from corral.attacks.balls import Norm
from corral.audit.diagnostics.findings import Finding, Overall, overall
from corral.documents import Document, read_document
from corral.notebook import Shown
from corral.records import Environment, as_percent
from corral.strict import MOST_RADIUS, Amount, Frozen, OfThreat, Seconds, Share
from corral.terminal import eps_words


class AuditAttack(Frozen):
    """One attack of the ensemble, `given` only the images that are still classified right after those before it.

    `accuracy` is the share of all attacked images that are classified right under it and those before it.
    """

    name: str
    description: str
    given: Amount
    broken: Amount
    accuracy: Share
    forwards: Amount
    backwards: Amount
    seconds: Seconds


class AuditRecord(Shown, Document, OfThreat):
    """One audit of one model.

    `n_data` images are in the data, `n_asked` of them were asked for, `n_clean` classified without attack and
    `n_attacked`, the first of them, taken through the whole ensemble; `reduced` says that this is fewer than asked.
    Accuracies are fractions in [0, 1]; `robust` is None where no image was attacked.
    """

    format: Literal["corral-audit-1", "corral-audit-2"] = "corral-audit-2"
    target: str
    kind: str
    preparation: list[str]
    data: str
    data_note: str
    data_fingerprint: str
    image_shape: tuple[int, ...]
    classes: int = Field(ge=2)
    class_names: list[str]
    norm: Norm
    eps: float = Field(gt=0, le=MOST_RADIUS)
    seed: int
    n_data: int = Field(ge=1, le=2**53)
    n_asked: int = Field(ge=1)
    n_clean: int = Field(ge=1)
    n_attacked: Amount
    reduced: bool
    minutes: float = Field(gt=0)
    seconds: Seconds
    diagnostics_seconds: Seconds
    clean: Share
    clean_attacked: Share | None
    robust: Share | None
    robust_error: Share | None
    attacks: list[AuditAttack]
    inputs: list[Finding]
    findings: list[Finding]
    verdict: Overall
    notes: list[str]
    created: str
    environment: Environment

    @model_validator(mode="after")
    def _consistent(self) -> "AuditRecord":
        if not self.n_attacked <= self.n_clean <= self.n_asked <= self.n_data:
            raise ValueError(f"{self.n_attacked} attacked of {self.n_clean} of {self.n_asked} of {self.n_data} images")
        if self.reduced != (self.n_attacked < self.n_asked):
            raise ValueError(f"{self.n_attacked} of {self.n_asked} images does not go with reduced = {self.reduced}")
        if (self.robust is None) != (self.n_attacked == 0):
            raise ValueError(f"robust accuracy {self.robust} of {self.n_attacked} images")
        if self.verdict != verdict_of(self.inputs, self.findings):
            raise ValueError(f"the verdict {self.verdict} is not that of the findings")
        return self

    def __str__(self) -> str:
        return repr(self)

    def _shown(self) -> tuple[str, dict[str, object]]:
        return self.target, {
            "data": self.data,
            "threat": f"{self.norm} {eps_words(self.eps)}",
            "clean": f"clean {as_percent(self.clean)}% of {self.n_clean:,} images",
            "robust": f"robust {as_percent(self.robust)}% of {self.n_attacked:,}",
            "verdict": f"verdict {self.verdict}",
        }


def verdict_of(inputs: list[Finding], findings: list[Finding]) -> Overall:
    """The verdict of an audit: that of its checks, or "masked" by what its inputs show."""
    return "masked" if overall(inputs) == "masked" else overall(findings)


def standard_error(share: float, n: int) -> float:
    """Binomial standard error of a share of n images; at 0 or 1 that of half an image in n, so that it is never 0."""
    inner = min(max(share, 0.5 / n), 1 - 0.5 / n)
    return math.sqrt(inner * (1 - inner) / n)


def run_words(record: AuditRecord) -> str:
    """What was run, under a name that a reduced run does not share with a whole one."""
    if record.n_attacked == 0:
        return "AutoAttack standard was not run: the time budget does not hold even one image"
    if record.reduced:
        return (
            f"AutoAttack standard on the first {record.n_attacked:,} of {record.n_asked:,} images, because the budget "
            f"of {record.minutes:g} min ended"
        )
    return f"AutoAttack standard on all {record.n_attacked:,} images asked for"


def read_audit(path: Path) -> AuditRecord:
    """Read and check the record of an audit; raises as `read_document`."""
    return read_document(path, AuditRecord, kind="audit", command="corral audit")
