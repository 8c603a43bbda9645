"""Whether robust accuracy falls as the attack gets more: eps, steps, restarts, and at last everything."""

import math
from itertools import pairwise

import torch

from corral.audit.diagnostics.findings import Reading, percent
from corral.audit.diagnostics.paired import CHANCE, Comparison, compare
from corral.audit.diagnostics.subject import DiagnosedModel

# Multiples of eps, and the steps that each level of the curve gets.
EPS_FACTORS, EPS_STEPS = (0.5, 1.0, 2.0), 20
STEPS = (5, 20, 80)
RESTARTS, RESTART_STEPS = (1, 5), 20
UNBOUNDED_STEPS = 50
# A rise of robust accuracy where it must fall: as in `stronger`, a point or two may be the attack's, not the model's.
RISE = 0.03
# What the last level of steps or starts may still add before it is worth a note: sound models lose up to 7 points from
# one start to ten.
UNFINISHED = 0.10


def unbounded(subject: DiagnosedModel) -> Reading:
    """Accuracy when any image is allowed: it must be at chance or 0, else the attack cannot find what is there."""
    from scipy.special import bdtrc  # late: importing it takes 0.2 s

    # Linf: every image is within 1 of every other. L2: the diagonal of the box.
    eps = 1.0 if subject.norm == "Linf" else math.sqrt(subject.x[0].numel())
    standing = int((~subject.broken(eps=eps, steps=UNBOUNDED_STEPS, restarts=1)).sum())
    total = len(subject.every_y)
    accuracy, guess = standing / total, 1 / subject.classes
    above = float(bdtrc(standing - 1, total, guess)) < CHANCE
    explanation = f"With any change of the image allowed (eps {eps:.3g}), PGD leaves {percent(accuracy)} right"
    if above:
        return Reading(
            value=accuracy,
            verdict="masked",
            explanation=f"{explanation}, more than guessing would ({percent(guess)}). An attacker who may paint any "
            "image at all always wins, so the attack is blind here.",
            remedy="Find what stops the gradient; no robust accuracy of this attack means anything yet.",
            n=total,
        )
    return Reading(
        value=accuracy,
        verdict="ok",
        explanation=f"{explanation}: no more than guessing ({percent(guess)}), as it must be.",
        n=total,
    )


def against_eps(subject: DiagnosedModel) -> Reading:
    """Robust accuracy at half, one and two eps: a larger ball holds the smaller one, so it must not rise."""
    largest = 1.0 if subject.norm == "Linf" else math.inf
    radii = [eps for factor in EPS_FACTORS if (eps := factor * subject.eps) <= largest]
    broken = [subject.broken(eps=eps, steps=EPS_STEPS, restarts=1) for eps in radii]
    curve = ", ".join(f"{_standing(level)} at {eps:.3g}" for eps, level in zip(radii, broken, strict=True))
    rise = _worst_rise(broken)
    return _told(rise, "eps", curve, subject.n)


def against_steps(subject: DiagnosedModel) -> Reading:
    """Robust accuracy after more and more steps: it must not rise, and should have stopped falling."""
    broken = [subject.broken(eps=subject.eps, steps=steps, restarts=1) for steps in STEPS]
    curve = ", ".join(f"{_standing(level)} after {steps}" for steps, level in zip(STEPS, broken, strict=True))
    return _unless_unfinished(broken, "steps", f"{curve} steps", subject.n)


def against_restarts(subject: DiagnosedModel) -> Reading:
    """Robust accuracy with one and with many random starts: it must not rise, and luck should not decide."""
    broken = [subject.broken(eps=subject.eps, steps=RESTART_STEPS, restarts=restarts) for restarts in RESTARTS]
    curve = ", ".join(f"{_standing(level)} with {count}" for count, level in zip(RESTARTS, broken, strict=True))
    return _unless_unfinished(broken, "restarts", f"{curve} random starts", subject.n)


def _unless_unfinished(broken: list[torch.Tensor], more: str, curve: str, n: int) -> Reading:
    """The usual finding, but a note where accuracy does not rise and still falls much from the last level but one."""
    rise, last = _worst_rise(broken), compare(broken[-1], broken[-2])
    if rise.verdict(RISE) == "ok" and last.at_least(UNFINISHED):
        return Reading(
            value=rise.excess,
            verdict="note",
            explanation=f"Robust accuracy is {curve}: it still falls by {percent(last.excess)}, more than usual. An "
            f"attack with few {more} flatters this model.",
            remedy=f"Use more {more}, or an attack that sets its own step size (APGD).",
            n=n,
        )
    return _told(rise, more, curve, n)


def _worst_rise(broken: list[torch.Tensor]) -> Comparison:
    """The largest rise of accuracy from one level to the next."""
    rises = [compare(before, after) for before, after in pairwise(broken)]
    return max(rises, key=lambda rise: rise.excess)


def _standing(broken: torch.Tensor) -> str:
    return percent(1 - float(broken.double().mean()))


def _told(rise: Comparison, more: str, curve: str, n: int) -> Reading:
    verdict = rise.verdict(RISE)
    if verdict == "ok":
        explanation = f"Robust accuracy is {curve}: more {more} never help the model, as it must be."
    else:
        explanation = (
            f"Robust accuracy is {curve}: it rises by {percent(rise.excess)} where it must fall, beyond chance. The "
            "attack with more in hand does worse, so it follows a misleading slope."
        )
    return Reading(
        value=rise.excess,
        verdict=verdict,
        explanation=explanation,
        remedy="" if verdict == "ok" else "Attack another objective, or without gradients (Square, AutoAttack).",
        n=n,
    )
