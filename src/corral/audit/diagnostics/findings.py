"""What diagnostics report: findings, each a number with a verdict in plain words, and the diagnosis they make."""

from typing import Literal

from pydantic import Field

from corral.strict import Frozen

Verdict = Literal["ok", "note", "masked", "skipped"]


class Reading(Frozen):
    """What one check found.

    Attributes:
        value: the check's number, None where nothing was measured.
        verdict: "ok"; "note" is worth knowing and no proof of masking; "masked" means that robust accuracies of
            gradient attacks on this model cannot be believed; "skipped" was not measured.
        explanation: one or two sentences with the number in them, for a reader who is no expert.
        remedy: what to do about it; empty where nothing is to be done.
        n: how many images the number is from, 0 where it is from none.
    """

    value: float | None
    verdict: Verdict
    explanation: str
    remedy: str = ""
    n: int = Field(ge=0)


class Finding(Reading):
    """A reading with the name and the title of its check and the seconds it took."""

    name: str
    title: str
    seconds: float = Field(ge=0)


class Diagnosis(Frozen):
    """All findings on one model, in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Literal["pass", "masked"]:
        """ "masked" if any finding is, else "pass"."""
        return "masked" if any(finding.verdict == "masked" for finding in self.findings) else "pass"


def percent(share: float) -> str:
    """A share as "12.5%"."""
    return f"{100 * share:.1f}%"
