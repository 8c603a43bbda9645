"""Whether robust accuracy falls as the attack gets more: eps, steps, restarts, and at last everything."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from corral.audit.diagnostics.findings import CHANCE, Reading, binomial_tail, compare, percent
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
    """Accuracy when any image is allowed: at chance or 0, unless the attack cannot find what is there."""
    eps = _largest(subject)
    right = int((~subject.broken(eps=eps, steps=UNBOUNDED_STEPS, restarts=1)).sum())
    total = len(subject.every_y)
    accuracy, guess = right / total, 1 / subject.classes
    why = f"With any change of the image allowed (eps {eps:.3g}), PGD leaves {percent(accuracy)} right"
    if not binomial_tail(right, total, guess) < CHANCE:
        why = f"{why}: no more than guessing ({percent(guess)}), as it must be."
        return Reading(value=accuracy, verdict="ok", explanation=why, n=total)
    why = (
        f"{why}, more than guessing would ({percent(guess)}). An attack that may choose any image succeeds "
        "wherever it works, so it does not work here."
    )
    remedy = "Find what stops the gradient; no robust accuracy of this attack means anything yet."
    return Reading(value=accuracy, verdict="masked", explanation=why, remedy=remedy, n=total)


def _largest(subject: DiagnosedModel) -> float:
    """Within which every image is of every other: in Linf 1, in L2 the diagonal of the box."""
    return 1.0 if subject.norm == "Linf" else math.sqrt(subject.x[0].numel())


def against_eps(subject: DiagnosedModel) -> Reading:
    """Robust accuracy at half, one and two eps: a larger ball holds the smaller one, so it must not rise."""
    largest = _largest(subject)
    radii = [eps for factor in EPS_FACTORS if (eps := factor * subject.eps) <= largest]
    broken = [subject.broken(eps=eps, steps=EPS_STEPS, restarts=1) for eps in radii]
    return _reading(subject, broken, "eps", _curve(broken, [f"at {eps:.3g}" for eps in radii]))


def against_steps(subject: DiagnosedModel) -> Reading:
    """Robust accuracy after more and more steps: it must not rise, and should have stopped falling."""
    broken = [subject.broken(eps=subject.eps, steps=steps, restarts=1) for steps in STEPS]
    curve = _curve(broken, [f"after {steps}" for steps in STEPS])
    return _reading(subject, broken, "steps", f"{curve} steps", may_fall=UNFINISHED)


def against_restarts(subject: DiagnosedModel) -> Reading:
    """Robust accuracy with one and with many random starts: it must not rise, nor depend much on the start."""
    broken = [subject.broken(eps=subject.eps, steps=RESTART_STEPS, restarts=restarts) for restarts in RESTARTS]
    curve = _curve(broken, [f"with {count}" for count in RESTARTS])
    return _reading(subject, broken, "restarts", f"{curve} random starts", may_fall=UNFINISHED)


def _curve(broken: Sequence[Tensor], levels: Sequence[str]) -> str:
    pairs = zip(broken, levels, strict=True)
    return ", ".join(f"{percent(1 - float(which.double().mean()))} {level}" for which, level in pairs)


def _reading(
    subject: DiagnosedModel, broken: list[Tensor], more: str, curve: str, *, may_fall: float = math.inf
) -> Reading:
    """What the largest rise of accuracy between levels says; else a note where the last level takes `may_fall`."""
    rise = max((compare(before, after) for before, after in pairwise(broken)), key=lambda rise: rise.excess)
    last, verdict = compare(broken[-1], broken[-2]), rise.verdict(RISE)
    if verdict != "ok":
        why = (
            f"it rises by {percent(rise.excess)} where it must fall, beyond chance. A stronger attack "
            "does worse, so it follows misleading gradients."
        )
        remedy = "Attack another objective, or without gradients (Square, AutoAttack)."
    elif last.at_least(may_fall):
        why = f"it still falls by {percent(last.excess)}, more than usual. Few {more} overstate its robustness."
        verdict, remedy = "note", f"Use more {more}, or an attack that sets its own step size (APGD)."
    else:
        why, remedy = f"more {more} never help the model, as it must be.", ""
    explanation = f"Robust accuracy is {curve}: {why}"
    return Reading(value=rise.excess, verdict=verdict, explanation=explanation, remedy=remedy, n=subject.n)
