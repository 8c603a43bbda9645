"""What diagnostics report: findings, each a number with a verdict in words, and when a difference is beyond chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from torch import Tensor

from corral.strict import Frozen

Verdict = Literal["ok", "note", "masked", "skipped"]
# Of a whole diagnosis or audit.
Overall = Literal["pass", "masked", "not measured"]
# A sound model is called masked by chance in at most 1 of 100 comparisons; most differ so clearly that it never is.
CHANCE = 0.01


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


def overall(findings: Sequence[Finding]) -> Overall:
    """ "masked" if any finding is; "not measured" if half of them or more were skipped; else "pass"."""
    if any(finding.verdict == "masked" for finding in findings):
        return "masked"
    made = sum(finding.verdict != "skipped" for finding in findings)
    return "pass" if 2 * made > len(findings) else "not measured"


class Diagnosis(Frozen):
    """All findings on one model, in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Overall:
        """ "masked" if any finding is, "not measured" if half of the checks or more were skipped, else "pass"."""
        return overall(self.findings)


def percent(share: float) -> str:
    """A share as "12.5%"."""
    return f"{100 * share:.1f}%"


def binomial_tail(hits: int, trials: int, share: float) -> float:
    """P(at least `hits` of so many independent trials succeed), each with probability `share`."""
    from scipy.special import bdtrc  # late: importing it takes 0.2 s

    return float(bdtrc(hits - 1, trials, share))


@dataclass(frozen=True)
class Comparison:
    """How many of `n` images only the challenger broke, and how many only the reference."""

    only_challenger: int
    only_reference: int
    n: int

    @property
    def excess(self) -> float:
        """The challenger's robust accuracy below the reference's, as a share of the n images; negative if above."""
        return (self.only_challenger - self.only_reference) / max(self.n, 1)

    @property
    def beyond_chance(self) -> bool:
        """Whether the challenger is stronger by McNemar's exact one-sided test at 1%: 7 images against 0, not 6."""
        both = self.only_challenger + self.only_reference
        return binomial_tail(self.only_challenger, both, 0.5) < CHANCE

    def at_least(self, share: float) -> bool:
        """Whether the challenger is stronger beyond chance, and by at least this share of the images."""
        return self.beyond_chance and self.excess >= share

    def verdict(self, large: float) -> Verdict:
        """ "masked" for an excess beyond chance of at least `large`, "note" for a smaller one beyond chance."""
        if not self.beyond_chance:
            return "ok"
        return "masked" if self.at_least(large) else "note"


def compare(challenger: Tensor, reference: Tensor) -> Comparison:
    """Compare two attacks by the (n,) bools of the images that each broke."""
    return Comparison(int((challenger & ~reference).sum()), int((reference & ~challenger).sum()), len(challenger))
