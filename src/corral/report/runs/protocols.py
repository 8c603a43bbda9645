"""How each attack was run, in words; warnings where evaluations were reduced or differ; what others report."""

from collections.abc import Sequence
from itertools import pairwise

from corral.records import AttackResult, Curve, Record
from corral.report.runs.collect import Evidence
from corral.report.runs.compare import RunGroup, attacks_of
from corral.report.words import (
    WORST_CASE,
    attack_order,
    attack_title,
    eps_words,
    listed,
    percent,
    protocol_words,
    seconds_words,
)


def protocols(evidence: Sequence[Evidence]) -> list[tuple[str, list[str]]]:
    """The title of every attack, and its settings in words; settings that differ have their runs before them."""
    met: dict[str, list[tuple[Evidence, AttackResult]]] = {}
    for piece in evidence:
        for attack in piece.record.attacks:
            met.setdefault(attack.name, []).append((piece, attack))
    result = []
    for name in attack_order(list(met)):
        settings: dict[str, list[tuple[Evidence, AttackResult]]] = {}
        for piece, attack in met[name]:
            settings.setdefault(protocol_words(attack), []).append((piece, attack))
        lines = []
        for words, pairs in settings.items():
            runs = "" if len(settings) == 1 else f"{listed([piece.label for piece, _ in pairs])}: "
            lines.append(f"{runs}{words} {_span(pairs)}")
        result.append((attack_title(name), lines))
    return result


def differing_protocols(group: RunGroup) -> list[str]:
    """Warnings where one attack name stands for different settings within a group.

    The objective is not compared: the published protocol has one for cluster heads and another for linear ones. Of the
    worst case only n is: the attacks in it are compared one by one, and cluster heads meet one more (the control).
    """
    found: list[str] = []
    for key in group.attacks:
        results = [attacks_of(e.record)[key] for e in group.members if key in attacks_of(e.record)]
        settings = {
            (a.n,) if key == WORST_CASE else (a.steps, a.step_size, a.restarts, a.success_rule, a.n) for a in results
        }
        if len(settings) > 1:
            found.append(
                f"{attack_title(key)} was run with different settings or on different numbers of images in different "
                "runs (see below): compare that column with care."
            )
    return found


def reduced_warnings(evidence: Sequence[Evidence]) -> list[str]:
    """One warning for each kind of evaluation that did not use the whole test set."""
    reduced: dict[tuple[str, int, int], list[str]] = {}
    for piece in evidence:
        r = piece.record
        if r.reduced:
            reduced.setdefault(("", r.n, r.n_test), []).append(piece.label)
        for attack in r.attacks:
            if attack.n < r.n:
                reduced.setdefault((f", {attack_title(attack.name)}", attack.n, r.n_test), []).append(piece.label)
    return [
        f"Reduced: {n:,} of {n_test:,} test images{attack}"
        + (" (all runs)." if len(set(labels)) == len(evidence) else f" ({listed(list(dict.fromkeys(labels)))}).")
        for (attack, n, n_test), labels in reduced.items()
    ]


def rises(curve: Curve) -> bool:
    """Whether accuracy rises with eps by more than two standard errors (at most 1/sqrt(n)): then its attack fails."""
    accuracy = [a for _, a in sorted(zip(curve.eps, curve.accuracy, strict=True))]
    return any(later - earlier > curve.n**-0.5 for earlier, later in pairwise(accuracy))


def _span(pairs: Sequence[tuple[Evidence, AttackResult]]) -> str:
    """Images, seeds and seconds of one attack over its runs."""
    times = [attack.seconds for _, attack in pairs]
    low, high = seconds_words(min(times)), seconds_words(max(times))
    counts = listed([f"{n:,}" for n in sorted({attack.n for _, attack in pairs})])
    seeds = listed([str(seed) for seed in sorted({attack.seed for _, attack in pairs})])
    took = low if low == high else f"{low} to {high}"
    return f"On {counts} images, seed {seeds}, {took} a run."


def claims(evidence: Sequence[Evidence]) -> list[str]:
    """One paragraph for each run whose recipe names a published figure on its data."""
    return [_claim(piece.label, piece.record) for piece in evidence if piece.record.reported is not None]


def _claim(label: str, record: Record) -> str:
    claim = record.reported
    assert claim is not None
    reported = (
        f"{label}: {claim.source} reports {percent(claim.clean)} clean and {percent(claim.robust)} robust under "
        f"{claim.attack}."
    )
    met = attacks_of(record)
    measured = f"Measured here: {percent(record.clean)} clean"
    if met:
        lowest = min(met.values(), key=lambda attack: attack.accuracy)
        measured += (
            f", {percent(lowest.accuracy)} under {attack_title(lowest.name)} at {lowest.norm} eps "
            f"{eps_words(lowest.eps)}"
        )
    part = f"{record.n:,} of {record.n_test:,} test images" if record.reduced else f"all {record.n:,} test images"
    return f"{reported} {measured}, on {part}."
