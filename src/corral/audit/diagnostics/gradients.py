"""Whether there are gradients at all: exactly zero ones, ones that are no numbers, ones that underflow."""

import torch

from corral.attacks.balls import random_in_ball
from corral.attacks.objectives import LogitObjective, cross_entropy, margin
from corral.audit.diagnostics.findings import Reading, Verdict, percent
from corral.audit.diagnostics.subject import DiagnosedModel, Gradients

# A single dead image may be chance, one in twenty caps what an attack can see; sound models measure 0 here.
MANY = 0.05


def zero_gradients(subject: DiagnosedModel) -> Reading:
    """The share of gradients of the margin that are exactly zero or not finite, at images and at points beside them.

    The margin (best rival output minus the label's) cannot saturate by itself, so a zero is the model's own doing.
    """
    found = _at_images_and_beside(subject, margin)
    zero, foul = int((found.largest == 0).sum()), int((~found.finite).sum())
    share = (zero + foul) / len(found.largest)
    verdict = _verdict(share)
    if foul:
        explanation = (
            f"{percent(foul / len(found.largest))} of the input gradients are NaN or infinite"
            f"{f' and {percent(zero / len(found.largest))} exactly zero' if zero else ''}: an attack by gradients "
            "cannot move there."
        )
        remedy = (
            "Find the operation without a finite derivative (a square root or a logarithm at 0, a norm of a zero "
            "vector) and guard it."
        )
    elif zero:
        explanation = (
            f"{percent(share)} of the input gradients are exactly zero: an attack by gradients cannot move there, "
            "whether or not the image is safe."
        )
        remedy = (
            "Look for rounding, thresholds, argmax, detach or no_grad on the way from pixels to outputs, or for "
            "outputs that underflow; attack a differentiable stand-in (BPDA) or without gradients (Square)."
        )
    else:
        explanation, remedy = "No input gradient is exactly zero, all are finite numbers: attacks can see a slope.", ""
    return Reading(value=share, verdict=verdict, explanation=explanation, remedy=remedy, n=subject.n)


def gradient_underflow(subject: DiagnosedModel) -> Reading:
    """The share of gradients of the cross-entropy below float32's smallest normal number though the margin has one.

    Cross-entropy's gradient is a product with 1 - p(label): outputs that differ by more than about 87 make it
    smaller than a float32 can say. Carlini & Wagner 2017 broke defensive distillation, which rests on that.
    """
    by_margin = _at_images_and_beside(subject, margin)
    found = _at_images_and_beside(subject, cross_entropy)
    tiny = torch.finfo(torch.float32).tiny
    sloped = by_margin.finite & (by_margin.largest >= tiny)
    lost = sloped & found.finite & (found.largest < tiny)
    if not bool(sloped.any()):
        why = "Not measured: the outputs have no slope that a softmax could hide."
        return Reading(value=None, verdict="skipped", explanation=why, n=0)
    share = int(lost.sum()) / len(lost)
    if share:
        explanation = (
            f"For {percent(share)} of the points the gradient of the cross-entropy underflows to zero although the "
            "outputs themselves have a slope: the softmax is saturated, and the usual attacks stand still."
        )
        remedy = "Attack the margin of the outputs (objective 'margin' or 'dlr'), or divide the outputs by a constant."
    else:
        explanation, remedy = "No gradient of the cross-entropy underflows: the softmax of the outputs is usable.", ""
    return Reading(value=share, verdict=_verdict(share), explanation=explanation, remedy=remedy, n=subject.n)


def _at_images_and_beside(subject: DiagnosedModel, function: LogitObjective) -> Gradients:
    beside = random_in_ball(subject.x, subject.eps, subject.norm, subject.generator())
    parts = [subject.gradients(function, x) for x in (subject.x, beside)]
    return Gradients(torch.cat([part.largest for part in parts]), torch.cat([part.finite for part in parts]))


def _verdict(share: float) -> Verdict:
    if share == 0:
        return "ok"
    return "masked" if share >= MANY else "note"
