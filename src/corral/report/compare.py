"""What may be compared with what: groups of runs measured alike, seeds of one recipe, and the error of each number."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from corral.evaluation.records import AttackResult, Record
from corral.report.collect import Evidence
from corral.report.words import WORST_CASE, attack_order, eps_words


@dataclass(frozen=True)
class Estimate:
    """An accuracy with its standard error.

    Attributes:
        mean: accuracy in [0, 1], the mean over seeds.
        error: standard error. One seed: binomial. Several: binomial error of the test images, which all seeds share,
            and the error of the mean over seeds, added in squares.
        n: test images behind it.
        spread: sample standard deviation over seeds, None for one seed.
    """

    mean: float
    error: float
    n: int
    spread: float | None


@dataclass(frozen=True)
class Entry:
    """One row to rank: a run, or the runs of one recipe that differ only in their seed."""

    label: str
    members: tuple[Evidence, ...]

    @property
    def record(self) -> Record:
        """The record of the first member, for everything that all members share."""
        return self.members[0].record

    def clean(self) -> Estimate:
        """Accuracy on the images as they are."""
        return _estimate([(e.record.clean, e.record.n) for e in self.members])

    def under(self, attack: str) -> Estimate | None:
        """Accuracy under an attack (a key of `attacks_of`), None where a member has not met it."""
        found = [attacks_of(e.record).get(attack) for e in self.members]
        return None if None in found else _estimate([(a.accuracy, a.n) for a in found if a is not None])

    def hardest(self, attacks: Sequence[str]) -> str:
        """The attack that leaves the least; the worst case per image wherever it was measured.

        Args:
            attacks: at least one, met by all members.
        """
        return WORST_CASE if WORST_CASE in attacks else min(attacks, key=self._left_by)

    def _left_by(self, attack: str) -> float:
        estimate = self.under(attack)
        return math.inf if estimate is None else estimate.mean


@dataclass(frozen=True)
class Group:
    """Runs measured on the same images at the same threat: only these may be compared."""

    entries: tuple[Entry, ...]

    @property
    def members(self) -> list[Evidence]:
        """All runs of the group, seeds of one recipe next to each other."""
        return [evidence for entry in self.entries for evidence in entry.members]

    @property
    def record(self) -> Record:
        """The record of the first run, for data, threat and n, which all share."""
        return self.entries[0].record

    @property
    def title(self) -> str:
        """Data and threat in words."""
        record = self.record
        return f"{record.data}, {record.norm} eps {eps_words(record.eps)}, n = {record.n:,}"

    @property
    def attacks(self) -> list[str]:
        """Every attack that some run met, in the order of the page."""
        return attack_order([key for evidence in self.members for key in attacks_of(evidence.record)])

    @property
    def common(self) -> list[str]:
        """The attacks that every run met at the threat of its record: the only ones to rank by."""
        shared = {attack.name for attack in self.record.attacks if _at_threat(attack, self.record)}
        for evidence in self.members:
            shared &= {attack.name for attack in evidence.record.attacks if _at_threat(attack, evidence.record)}
        return [name for name in self.attacks if name in shared]


def attacks_of(record: Record) -> dict[str, AttackResult]:
    """A record's attacks by name; one at another threat than the record's has its threat in the key."""
    return {
        a.name if _at_threat(a, record) else f"{a.name} at {a.norm} eps {eps_words(a.eps)}": a for a in record.attacks
    }


def group_runs(evidence: Sequence[Evidence]) -> list[Group]:
    """Sort runs into groups that may be compared, and seeds of one recipe into one entry.

    Args:
        evidence: the runs, in the order of the page.

    Returns:
        Groups of equal data, classes, norm, eps and n, in the order of their first run.
    """
    grouped = _gather(evidence, _measured_on)
    return [Group(tuple(entry for runs in _gather(group, _recipe) for entry in _entries(runs))) for group in grouped]


def difference_error(first: Estimate, second: Estimate) -> float:
    """Standard error of a difference of two accuracies, as if they were independent.

    The runs met the same images, so that the true error is mostly smaller: this errs toward "within noise".
    """
    return math.hypot(first.error, second.error)


def _at_threat(attack: AttackResult, record: Record) -> bool:
    return attack.norm == record.norm and math.isclose(attack.eps, record.eps, rel_tol=1e-6, abs_tol=1e-9)


def _measured_on(evidence: Evidence) -> tuple[object, ...]:
    r = evidence.record
    return (r.data, r.data_fingerprint, tuple(r.classes), r.norm, r.eps, r.n, r.n_test)


def _recipe(evidence: Evidence) -> tuple[object, ...]:
    record = evidence.record
    return (record.recipe, record.method, record.head, record.rule)


def _entries(runs: list[Evidence]) -> list[Entry]:
    """Runs of one recipe: one entry if only the seed tells them apart, else one each."""
    seeds = {evidence.record.train_seed for evidence in runs}
    if len(runs) > 1 and len(seeds) == len(runs):
        return [Entry(f"{runs[0].record.recipe} ({len(runs)} seeds)", tuple(runs))]
    return [Entry(evidence.label, (evidence,)) for evidence in runs]


def _gather(evidence: Sequence[Evidence], key: Callable[[Evidence], tuple[object, ...]]) -> list[list[Evidence]]:
    gathered: dict[tuple[object, ...], list[Evidence]] = {}
    for piece in evidence:
        gathered.setdefault(key(piece), []).append(piece)
    return list(gathered.values())


def _estimate(values: Sequence[tuple[float, int]]) -> Estimate:
    accuracies = [accuracy for accuracy, _ in values]
    n = min(count for _, count in values)
    mean = statistics.fmean(accuracies)
    binomial = math.sqrt(max(mean * (1 - mean), 0.0) / n)
    if len(values) == 1:
        return Estimate(mean, binomial, n, None)
    spread = statistics.stdev(accuracies)
    return Estimate(mean, math.hypot(binomial, spread / math.sqrt(len(values))), n, spread)
