"""Whether the outputs serve as logits: probabilities and bounded scores do not."""

import torch
from torch import Tensor

from corral.audit.diagnostics.findings import Reading, percent
from corral.audit.diagnostics.subject import DiagnosedModel
from corral.errors import CorralError

# The softmax of real logits comes near 1 somewhere. That of probabilities of C classes stays below e / (e + C - 1), of
# cosines below e^2 / (e^2 + C - 1): 0.23 and 0.45 for ten classes, 0.73 and 0.88 for two.
CONFIDENT = 0.9
# How far rows of probabilities may be from summing to 1: half-precision rounding.
SUM = 1e-2
# Images multiplied by these leave [0, 1], so that small but unbounded outputs show that they grow.
BEYOND = (10.0, 100.0, 1000.0)


def bounded_outputs(subject: DiagnosedModel) -> Reading:
    """The highest confidence that the softmax of the outputs reaches: on images, on noise, and far outside [0, 1]."""
    noise = torch.rand(subject.every_x.shape, generator=subject.generator()).to(subject.every_x)
    outputs = torch.cat([subject.outputs, subject.forward(noise)])
    highest, n = _confidence(outputs), len(subject.every_y)
    if bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() <= SUM).all()):
        return Reading(
            value=highest,
            verdict="masked",
            explanation="The outputs are probabilities: non-negative, each row sums to 1. Attacks take a softmax of "
            f"them once more, whose confidence never passes {percent(highest)}, and see almost no slope.",
            remedy="Hand over the logits: leave out the last softmax, or return log-probabilities.",
            n=n,
        )
    if highest < CONFIDENT:
        for factor in BEYOND:
            outputs = torch.cat([outputs, _far(subject, factor)])
        highest = _confidence(outputs)
    if highest >= CONFIDENT:
        return Reading(
            value=highest,
            verdict="ok",
            explanation=f"The softmax of the outputs reaches a confidence of {percent(highest)}: they serve as logits.",
            n=n,
        )
    low, high = float(outputs.min()), float(outputs.max())
    flat = f"the softmax that attacks take of them never passes a confidence of {percent(highest)}"
    if low >= 0:
        return Reading(
            value=highest,
            verdict="masked",
            explanation=f"The outputs are scores between {low:.3g} and {high:.3g}, not logits: {flat}, and where the "
            "scores fade to 0 so does the slope.",
            remedy="Hand over the logarithm of the scores, computed in log space (log-sum-exp), as the logits.",
            n=n,
        )
    return Reading(
        value=highest,
        verdict="note",
        explanation=f"The outputs stay between {low:.3g} and {high:.3g}, like cosines: {flat}. Gradients may still be "
        "sound; the other checks tell.",
        remedy="Attack the margin of the outputs, or multiply them by a constant such as 20 before the cross-entropy.",
        n=n,
    )


def _confidence(outputs: Tensor) -> float:
    return float(outputs.double().softmax(1).amax()) if outputs.numel() else 0.0


def _far(subject: DiagnosedModel, factor: float) -> Tensor:
    """Outputs for images outside [0, 1]; none if the model refuses such images, as it may."""
    try:
        return subject.forward(subject.every_x * factor)
    except (CorralError, ValueError, RuntimeError, AssertionError):
        return subject.outputs[:0]
