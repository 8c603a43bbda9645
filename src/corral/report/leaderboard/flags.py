"""What a reader must know before believing a line of a leaderboard."""

import numpy as np

from corral.audit.audit import SQUARE_IMAGES, SQUARE_NOTE
from corral.records import Record
from corral.report.runs.collect import Evidence
from corral.report.runs.compare import Entry
from corral.report.runs.estimates import Estimate, within_noise
from corral.report.runs.outcomes import CLEAN, single_attacks
from corral.report.runs.protocols import rises
from corral.report.words import PUBLISHED, attack_title, counted, listed, percent, points

# A test set of fewer images says little of another one's.
FEW_IMAGES = 1000
# A gap between two protocols that is worth a flag: a point or two is the attacks' randomness.
LARGE_GAP = 0.05
# Attacks that see no gradient.
GRADIENT_FREE = ("square",)


def flags_of(entry: Entry, best: Estimate | None, autoattack: Estimate | None) -> tuple[str, ...]:
    """The flags of an entry, the gravest first.

    Args:
        entry: with its records.
        best: its best known robust accuracy.
        autoattack: its accuracy under AutoAttack.
    """
    record = entry.record
    found = [words for piece in entry.members for words in _masking(piece)]
    found += _claims(entry, best)
    if autoattack is None:
        found.append("no AutoAttack: an upper bound" if best is not None else "no attack")
    elif best is not None and best.mean < autoattack.mean and not within_noise(best, autoattack):
        found.append(f"AutoAttack alone overstates it by {points(autoattack.mean - best.mean)}")
    if record.reduced or record.n < FEW_IMAGES:
        of = f" of {record.n_test:,}" if record.reduced else ""
        found.append(f"few images: {record.n:,}{of}")
    if edited := list(dict.fromkeys(name for piece in entry.members for name in piece.record.edited)):
        found.append(f"edited by hand: {', '.join(edited)}")
    return tuple(dict.fromkeys(found))


def _masking(piece: Evidence) -> list[str]:
    """Signs of masked gradients that records and their outcomes show."""
    record, found = piece.record, []
    free = [attack.name for attack in single_attacks(record) if attack.name in GRADIENT_FREE]
    white = [attack.name for attack in single_attacks(record) if attack.name not in GRADIENT_FREE]
    outcomes = piece.outcomes
    if free and white and all(name in outcomes for name in (CLEAN, *free, *white)):
        kept = np.logical_and.reduce([outcomes[name] for name in (CLEAN, *white)])
        only = int((kept & ~np.logical_and.reduce([outcomes[name] for name in free])).sum())
        if only >= SQUARE_IMAGES and only >= SQUARE_NOTE * record.n:
            found.append(
                f"masked gradients? {listed([attack_title(name) for name in free])} alone misclassifies "
                f"{counted(only, 'image')}"
            )
    if risen := [curve.attack for curve in record.curves if rises(curve)]:
        found.append(
            f"masked gradients? robust accuracy rises with eps under {listed([attack_title(a) for a in risen])}"
        )
    return found


def _claims(entry: Entry, best: Estimate | None) -> list[str]:
    """What was claimed, or the published protocol reports, above the best known robust accuracy."""
    if best is None:
        return []
    found, published = [], entry.under(PUBLISHED)
    claim = _claim(entry.record)
    if claim is not None and claim > best.mean + 2 * best.error:
        found.append(f"claim not reached: {percent(claim)} claimed, {percent(best.mean)} measured")
    if published is not None and published.mean - best.mean >= LARGE_GAP and not within_noise(published, best):
        found.append(f"the published protocol overstates it by {points(published.mean - best.mean)}")
    return found


def _claim(record: Record) -> float | None:
    return None if record.reported is None else record.reported.robust
