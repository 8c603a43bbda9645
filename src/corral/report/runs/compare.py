"""What may be compared with what: groups of runs measured alike, and seeds of one recipe."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from corral.records import AttackResult, Record
from corral.report.runs.collect import Evidence
from corral.report.runs.estimates import Estimate, estimate
from corral.report.runs.outcomes import CLEAN, at_threat
from corral.report.words import WORST_CASE, attack_order, eps_words


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
        return estimate(
            [(e.record.clean, e.record.n) for e in self.members], [e.outcomes.get(CLEAN) for e in self.members]
        )

    def under(self, attack: str) -> Estimate | None:
        """Accuracy under an attack (a key of `attacks_of`), None where a member has not met it."""
        found = [attacks_of(e.record).get(attack) for e in self.members]
        if None in found:
            return None
        values = [(a.accuracy, a.n) for a in found if a is not None]
        return estimate(values, [e.outcomes.get(attack) for e in self.members])

    def hardest(self, attacks: Sequence[str]) -> str:
        """The one of at least one attack with the lowest accuracy; the worst case per image where it was measured."""
        means = {name: math.inf if (found := self.under(name)) is None else found.mean for name in attacks}
        return WORST_CASE if WORST_CASE in attacks else min(attacks, key=means.__getitem__)


@dataclass(frozen=True)
class RunGroup:
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
        shared = {attack.name for attack in self.record.attacks if at_threat(attack, self.record)}
        for evidence in self.members:
            shared &= {attack.name for attack in evidence.record.attacks if at_threat(attack, evidence.record)}
        return [name for name in self.attacks if name in shared]


def attacks_of(record: Record) -> dict[str, AttackResult]:
    """A record's attacks by name; one at another threat than the record's has its threat in the key."""
    return {
        a.name if at_threat(a, record) else f"{a.name} at {a.norm} eps {eps_words(a.eps)}": a for a in record.attacks
    }


def group_runs(evidence: Sequence[Evidence]) -> list[RunGroup]:
    """Groups of runs of equal data, classes, norm, eps and n, seeds of one recipe as one entry, in the given order."""
    grouped = _gather(evidence, "data", "data_fingerprint", "classes", "norm", "eps", "n", "n_test")
    by_recipe = [_gather(group, "recipe", "method", "head", "rule") for group in grouped]
    return [RunGroup(tuple(entry for runs in group for entry in _entries(runs))) for group in by_recipe]


def _entries(runs: list[Evidence]) -> list[Entry]:
    """Runs of one recipe: one entry if they differ in the seed alone, else one each."""
    seeds = {evidence.record.train_seed for evidence in runs}
    if len(runs) > 1 and len(seeds) == len(runs):
        return [Entry(f"{runs[0].record.recipe} ({len(runs)} seeds)", tuple(runs))]
    return [Entry(evidence.label, (evidence,)) for evidence in runs]


def _gather(evidence: Sequence[Evidence], *fields: str) -> list[list[Evidence]]:
    """Those whose records are equal in these fields, together."""
    gathered: dict[str, list[Evidence]] = {}
    for piece in evidence:
        gathered.setdefault(repr([getattr(piece.record, name) for name in fields]), []).append(piece)
    return list(gathered.values())
