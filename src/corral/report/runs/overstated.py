"""How far the published protocol's accuracy is above that under the sound attacks, and why, as far as records show."""

from dataclasses import dataclass

from corral.report.runs.compare import Entry, RunGroup, attacks_of
from corral.report.runs.estimates import Estimate, within_noise
from corral.report.words import PUBLISHED, PUBLISHED_LOG, WORST_CASE, attack_title, eps_words, listed, percent, points


@dataclass(frozen=True)
class Overstatement:
    """A run whose accuracy under the published protocol is above that under a sound attack by more than noise.

    Attributes:
        entry: the run, or the runs of one recipe.
        claimed: its accuracy under the published protocol.
        attack: the sound attack with the lowest accuracy.
        kept: its accuracy under that.
        control: under the published protocol on log-space logits; None where it was not measured.
    """

    entry: Entry
    claimed: Estimate
    attack: str
    kept: Estimate
    control: Estimate | None

    @property
    def gap(self) -> float:
        """By how much the published protocol overstates, as a fraction."""
        return self.claimed.mean - self.kept.mean


def overstatements(group: RunGroup) -> list[Overstatement]:
    """Those of a group, the largest first."""
    found = []
    for one in _compared(group):
        if one.gap > 0 and not within_noise(one.claimed, one.kept):
            found.append(one)
    return sorted(found, key=lambda one: -one.gap)


def overstatement_sentence(group: RunGroup) -> str | None:
    """How many runs are overstated and the largest gap in a sentence; None where nothing can be compared."""
    compared, found = len(_compared(group)), overstatements(group)
    if not compared:
        return None
    if not found:
        who = "this run" if compared == 1 else "every run"
        return f"For {who} the published protocol and the sound attacks agree within noise."
    first = found[0]
    if len(found) == 1:
        against = f"{percent(first.claimed.mean)} against {percent(first.kept.mean)} under {attack_title(first.attack)}"
        return f"The published protocol overstates “{first.entry.label}” by {points(first.gap)}: {against}."
    return f"The published protocol overstates {len(found)} of {compared} runs, by up to {points(first.gap)}."


def overstatement_reasons(group: RunGroup) -> list[str]:
    """Why, a sentence for all runs with the same reason."""
    reasons: dict[str, list[str]] = {}
    for one in overstatements(group):
        reasons.setdefault(_reason(one), []).append(f"“{one.entry.label}”")
    return [
        f"The published protocol finds less for {listed(names)} because of {why}." for why, names in reasons.items()
    ]


def _compared(group: RunGroup) -> list[Overstatement]:
    """The runs that met the published protocol and a sound attack which all met."""
    found = []
    # One sound attack at a time: the worst case mixes in what the published attack itself found.
    sound = [name for name in group.common if name != WORST_CASE and not name.startswith(PUBLISHED)]
    for entry in group.entries if sound else ():
        attack = entry.hardest(sound)
        claimed, kept = entry.under(PUBLISHED), entry.under(attack)
        if claimed is not None and kept is not None:
            found.append(Overstatement(entry, claimed, attack, kept, entry.under(PUBLISHED_LOG)))
    return found


def _reason(found: Overstatement) -> str:
    """Why the published protocol finds less, as far as the record shows."""
    published = attacks_of(found.entry.record)[PUBLISHED]
    searches = "its short steps and its success rule of one restart"
    size = published.step_size or published.eps
    if published.norm == "Linf" and published.steps * size < 2 * published.eps:
        steps = f"{published.steps} steps of {eps_words(size)}"
        searches = f"its search, whose {steps} cannot cross the whole ball and whose success rule looks at one restart"
    if found.entry.record.head != "cluster":
        return searches
    if found.control is None:
        return f"exponentiated scores used as logits or {searches}: these records do not separate them"
    return (
        "exponentiated scores used as logits (the table has their share, by the same protocol on log-space logits), "
        f"and of {searches}"
    )
