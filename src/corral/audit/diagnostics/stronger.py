"""Whether an attack that should not be stronger beats white-box PGD: one step, no gradients, another objective."""

from functools import partial

import torch
from torch import Tensor

from corral.attacks.objectives import LogitObjective, cross_entropy, margin
from corral.attacks.square.attack import square
from corral.audit.diagnostics.findings import Comparison, Reading, compare, percent
from corral.audit.diagnostics.subject import RESTARTS, STEPS, DiagnosedModel, parts

# A weaker attack may misclassify this share of the images more before it is "masked": a point or two is what 80
# gradient steps on the cross-entropy miss.
WEAKER_WINS = 0.03
# Sound adversarially trained models lose up to 5 points more to a better objective: so far are PGD on the
# cross-entropy and AutoAttack apart in the literature.
OBJECTIVE_WINS = 0.10
# As many queries as show a masked model; AutoAttack's 5,000 are for the last points.
QUERIES = 500
# The margin, as a difference of logits, at which a softmax is neither flat nor saturated.
USEFUL_MARGIN = 4.0


def one_step(subject: DiagnosedModel) -> Reading:
    """Whether the model misclassifies more images after one step of length eps (FGSM) than after many."""
    many = subject.broken(eps=subject.eps)
    found = compare(subject.misled(subject.climbed(eps=subject.eps, steps=1, random_start=False)), many)
    return _reading(
        found,
        WEAKER_WINS,
        f"One step of length eps makes the model misclassify {found.only_challenger} images that {RESTARTS} × {STEPS} "
        f"steps do not, against {found.only_reference} the other way round",
        trouble="The gradient is right at the image and misleading beside it.",
        remedy="Do not report PGD here; attack another objective or without gradients, and train with more steps.",
    )


def black_box(subject: DiagnosedModel) -> Reading:
    """Whether Square Attack, which sees no gradient, succeeds on more images than white-box PGD."""
    white = subject.broken(eps=subject.eps)
    broken = white.clone()
    broken[~white] = _square(subject, ~white)
    only = int((broken & ~white).sum())
    # Square is expensive: on the images where PGD succeeded it runs only if the result can depend on them.
    counted = Comparison(only, 0, subject.n).at_least(WEAKER_WINS)
    if counted:
        broken[white] = _square(subject, white)
    found = compare(broken, white)
    back = f", against {found.only_reference} the other way round" if counted else ""
    return _reading(
        found,
        WEAKER_WINS,
        f"{QUERIES} queries without gradients (Square) make the model misclassify {only} images that white-box PGD "
        f"does not{back}",
        trouble="An attack that sees the gradients should never do worse: they are useless or misleading here.",
        remedy="Take the lower figure; find what hides the gradient, and report AutoAttack instead of PGD.",
    )


def other_objective(subject: DiagnosedModel) -> Reading:
    """Whether PGD on another function of the same outputs succeeds more: their margin, rescaled, or their logarithm.

    What misleads such a function misleads the model itself; it shows a saturated or a flat softmax.
    """
    white = subject.broken(eps=subject.eps)
    candidates = []
    for name, objective in _objectives(subject):
        end = subject.climbed(eps=subject.eps, steps=STEPS, restarts=RESTARTS, objective=objective)
        candidates.append((compare(subject.misled(end), white), name))
    found, name = max(candidates, key=lambda candidate: candidate[0].excess)
    return _reading(
        found,
        OBJECTIVE_WINS,
        f"The same PGD on {name} makes the model misclassify {found.only_challenger} images that it does not on the "
        f"cross-entropy of the outputs, against {found.only_reference} the other way round",
        trouble="The softmax of the outputs is too flat or too steep to follow.",
        remedy=f"Attack {name}, and report the lower figure.",
    )


def _reading(found: Comparison, large: float, counts: str, *, trouble: str, remedy: str) -> Reading:
    verdict = found.verdict(large)
    endings = {
        "ok": ", which may be chance.",
        "note": ", beyond chance, but no more than sound models show.",
        "masked": f", far beyond chance. {trouble}",
    }
    ending = f"{percent(found.excess)} of {found.n} images more{endings[verdict]}"
    if found.excess <= 0:
        ending = "it is no stronger, as it should be."
    remedy = "" if verdict == "ok" else remedy
    return Reading(value=found.excess, verdict=verdict, explanation=f"{counts}: {ending}", remedy=remedy, n=found.n)


def _square(subject: DiagnosedModel, which: Tensor) -> Tensor:
    run = partial(square.outcome, subject.model, eps=subject.eps, norm=subject.norm, queries=QUERIES, seed=subject.seed)
    pairs = zip(parts(subject.x[which]), parts(subject.y[which]), strict=True)
    return torch.cat([run(x, y).broken for x, y in pairs])


def _objectives(subject: DiagnosedModel) -> list[tuple[str, LogitObjective]]:
    # Negative on the images that the model classifies right, which these are.
    usual = -float(margin(subject.right_outputs, subject.y).median())
    scale = USEFUL_MARGIN / usual if usual > 0 else 1.0

    def rescaled(outputs: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(outputs * scale, y)

    def logarithm(outputs: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log(), y)

    found: list[tuple[str, LogitObjective]] = [
        ("the margin of the outputs", margin),
        (f"the outputs times {scale:.2g}", rescaled),
    ]
    if bool((subject.outputs >= 0).all()):
        found.append(("the logarithm of the outputs", logarithm))
    return found
