"""What the numbers say, in sentences: the highest robust accuracy, and by how much it is ahead."""

from dataclasses import dataclass

from corral.report.runs.compare import Entry, RunGroup
from corral.report.runs.estimates import NOISE, Estimate, difference_error, only_one_kept, paired, within_noise
from corral.report.runs.overstated import overstatement_reasons, overstatement_sentence
from corral.report.words import (
    PUBLISHED,
    WORST_CASE,
    attack_title,
    counted,
    eps_words,
    listed,
    percent,
    points,
)


@dataclass(frozen=True)
class Verdict:
    """One headline, and the sentences that carry it, the most important first: a page shows two of them at once."""

    headline: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class _Ranked:
    entry: Entry
    attack: str
    kept: Estimate


def verdict(group: RunGroup) -> Verdict:
    """A headline on the highest robust accuracy under the strongest attacks that all runs of a group met.

    With sentences on errors, clean accuracy and what the published protocol overstates.
    """
    ranked = _rank(group)
    threat = f"{group.record.norm} eps {eps_words(group.record.eps)}"
    if not ranked:
        who = "this run" if len(group.members) == 1 else "all of these runs"
        headline = f"Nothing to rank at {threat}: no attack was run on {who}."
        return Verdict(headline, (_clean(group.entries[0], group),))
    best = ranked[0]
    tied = [best, *(other for other in ranked[1:] if within_noise(best.kept, other.kept))]
    judged = _judged(ranked, group)
    if best.kept.mean - NOISE * best.kept.error <= 1 / len(group.record.classes):
        headline, reasons = _nothing_robust(ranked, group, threat)
    elif len(ranked) == 1:
        headline, reasons = f"{_name(best.entry)} is robust on {_share(best)} at {threat}.", []
    elif len(tied) > 1:
        headline, reasons = _tie(ranked, tied, threat)
    else:
        headline, reasons = _win(best, ranked[1], threat)
    sentences = [
        _clean(best.entry, group),
        overstatement_sentence(group),
        judged,
        *reasons,
        *overstatement_reasons(group),
    ]
    return Verdict(headline, tuple(sentence for sentence in sentences if sentence))


def within_noise_of_best(group: RunGroup) -> set[str]:
    """Labels of the entries that the numbers cannot tell from the best one under its strongest attack."""
    ranked = _rank(group)
    return {other.entry.label for other in ranked if within_noise(ranked[0].kept, other.kept)}


def _rank(group: RunGroup) -> list[_Ranked]:
    """Entries by accuracy under their strongest common attack, highest first; ties in the order of the page."""
    ranked = []
    for entry in group.entries if group.common else ():
        attack = entry.hardest(group.common)
        kept = entry.under(attack)
        if kept is not None:
            ranked.append(_Ranked(entry, attack, kept))
    return sorted(ranked, key=lambda one: -one.kept.mean)


def _name(entry: Entry) -> str:
    """The label in quotation marks: a run may be called "at"."""
    return f"“{entry.label}”"


def _share(ranked: _Ranked) -> str:
    kept = ranked.kept
    seeds = "" if kept.spread is None else f", sd over seeds {100 * kept.spread:.1f}"
    return f"{percent(kept.mean)} of {kept.n:,} test images (standard error {points(kept.error)}{seeds})"


def _judged(ranked: list[_Ranked], group: RunGroup) -> str:
    """Which attack decides."""
    names = list(dict.fromkeys(one.attack for one in ranked))
    if names == [WORST_CASE]:
        return "Judged by the worst case per image over all attacks that were run."
    if len(names) == 1:
        others = len(group.common) - 1
        strongest = f", the strongest of the {others + 1} attacks measured" if others else ", the only attack measured"
        text = f"Judged by {attack_title(names[0])}{strongest}."
    else:
        titles = listed([attack_title(name) for name in names])
        text = f"Each run is judged by the attack with its lowest accuracy ({titles})."
    if all(name.startswith(PUBLISHED) for name in group.common) and any(
        entry.record.head == "cluster" for entry in group.entries
    ):
        text += " That protocol is known to miss most adversarial images of cluster heads: run a sound attack first."
    return text


def _nothing_robust(ranked: list[_Ranked], group: RunGroup, threat: str) -> tuple[str, list[str]]:
    best, guess = ranked[0], percent(1 / len(group.record.classes))
    if len(ranked) == 1:
        headline = f"{_name(best.entry)} is not robust at {threat}: {percent(best.kept.mean)}, guessing gives {guess}."
    else:
        headline = (
            f"Nothing is robust at {threat}: the best, {_name(best.entry)}, has {percent(best.kept.mean)}, guessing "
            f"gives {guess}."
        )
    return headline, [f"{_name(best.entry)} is right on {_share(best)}."]


def _tie(ranked: list[_Ranked], tied: list[_Ranked], threat: str) -> tuple[str, list[str]]:
    best = tied[0]
    named = listed([f"{_name(one.entry)} {percent(one.kept.mean)}" for one in tied])
    headline = f"No clear winner at {threat}: robust accuracy {named}, equal within noise."
    error = points(NOISE * difference_error(best.kept, tied[1].kept))
    gap = best.kept.mean - tied[1].kept.mean
    who = "Both" if len(tied) == 2 else "The first two"
    reason = f"{who} are robust on {_share(best)}."
    if gap > 0:
        reason = (
            f"{_name(best.entry)} is robust on {_share(best)}; its lead of {points(gap)} over {_name(tied[1].entry)} "
            f"is less than {NOISE:g} standard errors of the difference ({error})."
        )
    reasons = [reason, *_paired(best, tied[1])]
    if behind := [one for one in ranked if one not in tied]:
        named = listed([f"{_name(one.entry)} with {percent(one.kept.mean)}" for one in behind])
        reasons.append(f"Behind by more than noise: {named}.")
    return headline, reasons


def _win(best: _Ranked, second: _Ranked, threat: str) -> tuple[str, list[str]]:
    gap, error = best.kept.mean - second.kept.mean, difference_error(best.kept, second.kept)
    headline = (
        f"{_name(best.entry)} has the highest robust accuracy at {threat}: {percent(best.kept.mean)}, "
        f"ahead of {_name(second.entry)} with {percent(second.kept.mean)}."
    )
    size = f"{gap / error:.1f} standard errors of the difference" if error > 0 else "beyond any sampling error"
    return headline, [f"It is robust on {_share(best)}; the lead of {points(gap)} is {size}.", *_paired(best, second)]


def _paired(best: _Ranked, second: _Ranked) -> list[str]:
    """That the two of the headline are compared image by image, and how often they differ."""
    if not paired(best.kept, second.kept):
        return []
    counts = only_one_kept(best.kept, second.kept)
    if counts is None:
        return ["Differences are paired on the same test images."]
    first, other = (counted(count, "image") for count in counts)
    return [
        f"Differences are paired on the same test images: only {_name(best.entry)} is right on {first}, "
        f"only {_name(second.entry)} on {other}."
    ]


def _clean(entry: Entry, group: RunGroup) -> str:
    """Clean accuracy of the entry in the headline, and of whoever has more."""
    own = entry.clean()
    text = f"On clean images {_name(entry)} is right on {percent(own.mean)}"
    top = max(group.entries, key=lambda other: other.clean().mean)
    if top.clean().mean <= own.mean:
        return f"{text}." if len(group.entries) == 1 else f"{text}; no other run here has more."
    noise = ", within noise" if within_noise(top.clean(), own) else ""
    return f"{text}; the highest is {_name(top)} with {percent(top.clean().mean)}{noise}."
