"""Whether the gradients are of use: not zero, finite, above underflow, and better than random directions."""

import torch
from torch import Tensor

from corral.attacks.balls import Norm, l2_norms, per_example, project, random_in_ball
from corral.attacks.objectives import LogitObjective, cross_entropy, margin
from corral.audit.diagnostics.findings import Reading, Verdict, percent
from corral.audit.diagnostics.subject import DiagnosedModel

# A single zero gradient may be chance; sound models measure 0.
MANY_ZERO = 0.05
RANDOM, STEPS = 20, 20
# Sound models measure 0 to 2% in tens of dimensions and more; a useless gradient loses to the best of 20 nearly always.
SOME_LOST, MANY_LOST = 0.05, 0.15


def zero_gradients(subject: DiagnosedModel) -> Reading:
    """The share of gradients of the margin that are exactly zero or not finite, at images and at points beside them.

    The margin (best rival output minus the label's) cannot saturate, so a zero comes from the model.
    """
    found = _at_images_and_beside(subject, margin)
    zero, foul = int((found == 0).sum()), int((~torch.isfinite(found)).sum())
    share = (zero + foul) / len(found)
    why, remedy = "No input gradient is exactly zero, all are finite numbers: attacks can see a slope.", ""
    if foul:
        zeros = f" and {percent(zero / len(found))} exactly zero" if zero else ""
        why = (
            f"{percent(foul / len(found))} of the input gradients are NaN or infinite{zeros}: an attack by gradients "
            "cannot move there."
        )
        remedy = (
            "Find the operation without a finite derivative (a square root or a logarithm at 0, a norm of a zero "
            "vector) and guard it."
        )
    elif zero:
        why = (
            f"{percent(share)} of the input gradients are exactly zero: an attack by gradients cannot move there, "
            "whether or not the image is safe."
        )
        remedy = (
            "Look for rounding, thresholds, argmax, detach or no_grad on the way from pixels to outputs, or for "
            "outputs that underflow; attack a differentiable stand-in (BPDA) or without gradients (Square)."
        )
    return Reading(value=share, verdict=_verdict(share), explanation=why, remedy=remedy, n=subject.n)


def gradient_underflow(subject: DiagnosedModel) -> Reading:
    """The share of gradients of the cross-entropy below float32's smallest normal number where the margin's are above.

    Cross-entropy's gradient is a product with 1 - p(label), which outputs that differ by more than about 87 take out of
    float32's range: how Carlini & Wagner 2017 broke defensive distillation.
    """
    by_margin, found = (_at_images_and_beside(subject, function) for function in (margin, cross_entropy))
    tiny = torch.finfo(torch.float32).tiny
    sloped = torch.isfinite(by_margin) & (by_margin >= tiny)
    share = int((sloped & torch.isfinite(found) & (found < tiny)).sum()) / len(found)
    if not bool(sloped.any()):
        why = "Not measured: the outputs have no slope that a softmax could hide."
        return Reading(value=None, verdict="skipped", explanation=why, n=0)
    why, remedy = "No gradient of the cross-entropy underflows: the softmax of the outputs is usable.", ""
    if share:
        why = (
            f"For {percent(share)} of the points the gradient of the cross-entropy underflows to zero although the "
            "outputs themselves have a slope: the softmax is saturated, and the usual attacks stand still."
        )
        remedy = "Attack the margin of the outputs (objective 'margin' or 'dlr'), or divide the outputs by a constant."
    return Reading(value=share, verdict=_verdict(share), explanation=why, remedy=remedy, n=subject.n)


def _at_images_and_beside(subject: DiagnosedModel, function: LogitObjective) -> Tensor:
    """(2 n,) largest entries of the gradients at the images and at one random point beside each."""
    beside = random_in_ball(subject.x, subject.eps, subject.norm, subject.generator())
    return torch.cat([subject.largest_gradients(function, x) for x in (subject.x, beside)])


def _verdict(share: float) -> Verdict:
    return "ok" if share == 0 else "masked" if share >= MANY_ZERO else "note"


def random_directions(subject: DiagnosedModel) -> Reading:
    """The share of images on which the best of 20 random points is as bad for the model as the end of PGD.

    Both are judged by the margin of the outputs: unlike the cross-entropy it does not saturate.
    """
    reached = _margins(subject, subject.climbed(eps=subject.eps, steps=STEPS, keep="last"))
    generator, best = subject.generator(), torch.full_like(reached, -torch.inf)
    for _ in range(RANDOM):
        best = torch.maximum(best, _margins(subject, _on_surface(subject.x, subject.eps, subject.norm, generator)))
    share = float((best >= reached).double().mean())
    verdict: Verdict = "masked" if share >= MANY_LOST else "note" if share >= SOME_LOST else "ok"
    why = (
        f"On {percent(share)} of the images the best of {RANDOM} random directions of length eps is as bad for the "
        f"model as the end of {STEPS} gradient steps"
    )
    if verdict == "ok":
        why, remedy = f"{why}: the gradient is informative.", ""
    else:
        why = f"{why}, where the gradient should win nearly always: it carries little information."
        remedy = "Look at the findings on zero gradients and on the outputs; attack the margin, or without gradients."
    return Reading(value=share, verdict=verdict, explanation=why, remedy=remedy, n=subject.n)


def _margins(subject: DiagnosedModel, x: Tensor) -> Tensor:
    return margin(subject.forward(x).double(), subject.y)


def _on_surface(x: Tensor, eps: float, norm: Norm, generator: torch.Generator) -> Tensor:
    """Random corners of the Linf ball, or points of the L2 sphere, clipped to [0, 1]."""
    direction = torch.randn(x.shape, generator=generator).to(x)
    if norm == "Linf":
        return (x + eps * direction.sign()).clamp(0, 1)
    lengths = l2_norms(direction).clamp_min(torch.finfo(x.dtype).tiny)
    return project(x + direction * per_example(eps / lengths, x), x, eps, norm)
