"""What may be ranked with what, and by which number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from corral.errors import CorralError
from corral.records import Record
from corral.report.leaderboard.audits import audit_flag
from corral.report.leaderboard.flags import flags_of
from corral.report.runs.collect import Evidence
from corral.report.runs.compare import Entry, RunGroup, attacks_of, group_runs
from corral.report.runs.estimates import Estimate, within_noise
from corral.report.runs.outcomes import single_attacks
from corral.report.words import AUTOATTACK, WORST_CASE, attack_title, eps_words, listed
from corral.training import Run, load_model


@dataclass(frozen=True)
class Line:
    """One model, or the runs of one recipe that differ only in their seed.

    Attributes:
        entry: with its records.
        rank: in its leaderboard, equal ones the same; None where it may not be ranked.
        clean: accuracy on the images as they are.
        autoattack: under AutoAttack standard; None where it was not run.
        best: the best known robust accuracy: worst case per image, else the lowest of the attacks; None without any.
        by: the attack that `best` is under, as records name it; empty without any.
        ranked_by: the accuracy that decides the rank; None where there is no rank.
        flags: what a reader must know before believing the line.
        parameters: of the model; None where it is not known.
        tied: whether it cannot be told from the first by 2 standard errors of the difference.
    """

    entry: Entry
    rank: int | None
    clean: Estimate
    autoattack: Estimate | None
    best: Estimate | None
    by: str
    ranked_by: Estimate | None
    flags: tuple[str, ...]
    parameters: int | None
    tied: bool = False

    @property
    def record(self) -> Record:
        """The record of the first of its runs."""
        return self.entry.record

    @property
    def passes(self) -> float | None:
        """Forward and backward passes an image, of all attacks of a run together; None where they were not counted."""
        return _mean_cost(_passes(piece.record) for piece in self.entry.members)

    @property
    def attack_seconds(self) -> float | None:
        """Of all attacks of a run together."""
        return _mean_cost(piece.record.eval_seconds for piece in self.entry.members)

    @property
    def train_seconds(self) -> float | None:
        """Of a run's training; None where they are not known."""
        return _mean_cost(piece.record.train_seconds for piece in self.entry.members)

    @property
    def protocol(self) -> str:
        """The protocols that the attacks are of."""
        return " or ".join(dict.fromkeys(piece.record.protocol for piece in self.entry.members))


@dataclass(frozen=True)
class Leaderboard:
    """Models measured on the same images at the same threat, those with a rank first.

    Attributes:
        group: of the runs.
        lines: in order.
        basis: what they are ranked by, a sentence.
        apart: why they are not ranked with the first leaderboard's, a sentence; empty of the first one.
    """

    group: RunGroup
    lines: tuple[Line, ...]
    basis: str
    apart: str = ""

    @property
    def shared_flags(self) -> tuple[str, ...]:
        """The flags that every one of several lines has."""
        first, *others = self.lines
        return tuple(flag for flag in first.flags if others and all(flag in line.flags for line in others))

    @property
    def ranked(self) -> RunGroup:
        """The group in the order of the lines."""
        return RunGroup(tuple(line.entry for line in self.lines))


def leaderboards(evidence: Sequence[Evidence], folders: Sequence[Path]) -> list[Leaderboard]:
    """One leaderboard for each group of models that may be compared, the largest group first.

    Args:
        evidence: from `collect`.
        folders: where each of it was read, for the sizes of runs whose records lack them.
    """
    where = {piece.label: folder for piece, folder in zip(evidence, folders, strict=True)}
    groups = sorted(group_runs(evidence), key=lambda group: -len(group.members))
    return [_leaderboard(group, where, _apart(group.record, groups[0].record)) for group in groups]


def _leaderboard(group: RunGroup, where: dict[str, Path], apart: str) -> Leaderboard:
    by_autoattack = any(entry.under(AUTOATTACK) for entry in group.entries)
    lines = [_line(entry, group, where, by_autoattack) for entry in group.entries]
    ranked = sorted((one for one in lines if one.ranked_by is not None), key=lambda one: -_mean(one.ranked_by))
    placed = [
        replace(
            line,
            rank=1 + sum(_mean(other.ranked_by) > _mean(line.ranked_by) for other in ranked),
            tied=_tied(ranked[0], line),
        )
        for line in ranked
    ]
    others = sorted((one for one in lines if one.ranked_by is None), key=lambda one: -_mean(one.best))
    return Leaderboard(group, (*placed, *others), _basis(group, lines, by_autoattack), apart)


def _mean_cost(costs: Iterable[float | None]) -> float | None:
    """The mean over the runs of a line; None where one of them is not known."""
    known = list(costs)
    return None if None in known else fmean(cost for cost in known if cost is not None)


def _passes(record: Record) -> float | None:
    single = single_attacks(record)
    if not single or any(attack.forwards is None for attack in single):
        return None
    return sum(((attack.forwards or 0) + (attack.backwards or 0)) / attack.n for attack in single)


def _tied(first: Line, other: Line) -> bool:
    return (
        first.ranked_by is not None and other.ranked_by is not None and within_noise(first.ranked_by, other.ranked_by)
    )


def _mean(estimate: Estimate | None) -> float:
    return -1.0 if estimate is None else estimate.mean


def _line(entry: Entry, group: RunGroup, where: dict[str, Path], by_autoattack: bool) -> Line:
    known = [name for name, attack in attacks_of(entry.record).items() if name == attack.name and entry.under(name)]
    by = entry.hardest(known) if known else ""
    best, autoattack = entry.under(by) if by else None, entry.under(AUTOATTACK)
    if by_autoattack:
        decisive = best if autoattack is not None else None
    else:
        decisive = entry.under(entry.hardest(group.common)) if group.common else None
    audits = [audit_flag(piece.record, where[piece.label]) for piece in entry.members]
    sizes = {piece.record.parameters or _stored_parameters(where[piece.label]) for piece in entry.members}
    return Line(
        entry=entry,
        rank=None,
        clean=entry.clean(),
        autoattack=autoattack,
        best=best,
        by=by,
        ranked_by=decisive,
        flags=(*filter(None, dict.fromkeys(audits)), *flags_of(entry, best, autoattack)),
        parameters=sizes.pop() if len(sizes) == 1 else None,
    )


def _basis(group: RunGroup, lines: Sequence[Line], by_autoattack: bool) -> str:
    if by_autoattack:
        without = any(line.autoattack is None for line in lines)
        words = "Ranked by the best known robust accuracy: AutoAttack standard and every other attack in the records."
        return words + (" Models without AutoAttack have no rank: theirs is an upper bound." if without else "")
    if not group.common:
        return "Not ranked: no attack was run on all of these models, and AutoAttack on none."
    name = WORST_CASE if WORST_CASE in group.common else ""
    what = (
        attack_title(name).lower() if name else f"the lowest of {listed([attack_title(one) for one in group.common])}"
    )
    return f"Ranked by the {what.removeprefix('the ')}. AutoAttack was run on none: these are upper bounds."


def _apart(record: Record, first: Record) -> str:
    """What differs between the measurements of two groups; empty where nothing does."""
    differences = []
    if (record.data, record.data_fingerprint) != (first.data, first.data_fingerprint):
        names = (f"{record.data} ({record.data_fingerprint})", f"{first.data} ({first.data_fingerprint})")
        differences.append(f"images of {names[0]}, not {names[1]}")
    elif record.classes != first.classes:
        differences.append("other classes")
    if (record.norm, record.eps) != (first.norm, first.eps):
        differences.append(f"{record.norm} eps {eps_words(record.eps)}, not {first.norm} eps {eps_words(first.eps)}")
    if (record.n, record.n_test) != (first.n, first.n_test):
        differences.append(f"{record.n:,} of {record.n_test:,} test images, not {first.n:,} of {first.n_test:,}")
    return f"Not comparable with the first leaderboard: {'; '.join(differences)}." if differences else ""


def _stored_parameters(folder: Path) -> int | None:
    """Those of a run's model, where its record, of an earlier version, does not say; None of other models."""
    if not Run(folder).model_file.is_file():
        return None
    try:
        return sum(one.numel() for one in load_model(folder)[0].parameters())
    except CorralError:  # a backbone of the user's that is not imported here
        return None
