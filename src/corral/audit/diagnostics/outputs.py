"""Whether the outputs serve as logits, and are one function of the image: not random, no layer in train mode."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from corral.attacks.state import attacked
from corral.audit.diagnostics.findings import Reading, Verdict, percent
from corral.audit.diagnostics.subject import DiagnosedModel
from corral.errors import CorralError

# The softmax of real logits comes near 1 somewhere. That of probabilities of C classes stays below e / (e + C - 1), of
# cosines below e^2 / (e^2 + C - 1): 0.23 and 0.45 for ten classes, 0.73 and 0.88 for two.
CONFIDENT = 0.9
# How far rows of probabilities may be from summing to 1: half-precision rounding.
SUM = 1e-2
# Images multiplied by these leave [0, 1], so that small but unbounded outputs show that they grow.
BEYOND = (10.0, 100.0, 1000.0)
# Forward passes of the same batch that are compared.
PASSES = 4
# Of a row's spread: a thousand times float32's rounding, a tenth of what moves a label in practice.
SAME = 1e-3


def bounded_outputs(subject: DiagnosedModel) -> Reading:
    """The highest confidence that the softmax of the outputs reaches: on images, on noise, and far outside [0, 1]."""
    noise = torch.rand(subject.every_x.shape, generator=subject.generator()).to(subject.every_x)
    outputs = torch.cat([subject.outputs, subject.forward(noise)])
    highest = float(outputs.double().softmax(1).amax())
    probabilities = bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() <= SUM).all())
    if not probabilities and highest < CONFIDENT:
        outputs = torch.cat([outputs, *(_far(subject, factor) for factor in BEYOND)])
        highest = float(outputs.double().softmax(1).amax())
    low, high = float(outputs.min()), float(outputs.max())
    flat = f"the softmax that attacks take of them never passes a confidence of {percent(highest)}"
    verdict: Verdict = "masked"
    if probabilities:
        why = (
            "The outputs are probabilities: non-negative, each row sums to 1. Attacks take a softmax of them once "
            f"more, whose confidence never passes {percent(highest)}, and see almost no slope."
        )
        remedy = "Hand over the logits: leave out the last softmax, or return log-probabilities."
    elif highest >= CONFIDENT:
        why = f"The softmax of the outputs reaches a confidence of {percent(highest)}: they serve as logits."
        verdict, remedy = "ok", ""
    elif low >= 0:
        why = (
            f"The outputs are scores between {low:.3g} and {high:.3g}, not logits: {flat}, and where the scores fade "
            "to 0 so does the slope."
        )
        remedy = "Hand over the logarithm of the scores, computed in log space (log-sum-exp), as the logits."
    else:
        why = (
            f"The outputs stay between {low:.3g} and {high:.3g}, like cosines: {flat}. Gradients may still be sound; "
            "the other checks tell."
        )
        remedy = "Attack the margin of the outputs, or multiply them by a constant such as 20 before the cross-entropy."
        verdict = "note"
    return Reading(value=highest, verdict=verdict, explanation=why, remedy=remedy, n=len(subject.every_y))


def _far(subject: DiagnosedModel, factor: float) -> Tensor:
    """Outputs for images outside [0, 1]; none if the model refuses such images, as it may."""
    try:
        return subject.forward(subject.every_x * factor)
    except (CorralError, ValueError, RuntimeError, AssertionError):
        return subject.outputs[:0]


def train_mode_layers(subject: DiagnosedModel) -> Reading:
    """How many dropout and batch-norm layers are in train mode as handed over, or stay in it after `eval()`."""
    layers = [module for module in subject.model.modules() if _is(module, _BatchNorm) or _is(module, _DropoutNd)]
    open_now = sum(map(_trains, layers))
    with attacked(subject.model):
        stuck = sum(map(_trains, layers))
    if stuck:
        why = (
            f"{stuck} of {len(layers)} dropout and batch-norm layers keep behaving as in training after model.eval(): "
            "outputs depend on chance or on the other images of the batch."
        )
        remedy = "Let eval() reach these layers, and give batch norms their running statistics."
        return Reading(value=stuck, verdict="masked", explanation=why, remedy=remedy, n=0)
    if open_now:
        why = (
            f"{open_now} of {len(layers)} dropout and batch-norm layers were handed over in train mode. corral "
            "measures in eval mode; other tools would not."
        )
        remedy = "Call model.eval() before measuring or handing the model on."
        return Reading(value=open_now, verdict="note", explanation=why, remedy=remedy, n=0)
    why = f"All {len(layers)} dropout and batch-norm layers are in eval mode."
    return Reading(
        value=0, verdict="ok", explanation=why if layers else "The model has no dropout or batch-norm layers.", n=0
    )


def _is(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of a kind, also where TorchScript has kept only the name of its class."""
    scripted = getattr(torch.nn, str(getattr(module, "original_name", "")), None)
    return isinstance(module, kind) or (isinstance(scripted, type) and issubclass(scripted, kind))


def _trains(layer: nn.Module) -> bool:
    if _is(layer, _BatchNorm):
        return layer.training or getattr(layer, "running_mean", None) is None
    return layer.training and getattr(layer, "p", 1) > 0


def randomness(subject: DiagnosedModel) -> Reading:
    """The share of images whose outputs differ between identical forward passes by more than rounding."""
    first = subject.outputs
    spread = (first.amax(1) - first.amin(1)).clamp_min(torch.finfo(first.dtype).tiny)
    moved = torch.zeros_like(first[:, 0])
    flipped = torch.zeros_like(first[:, 0], dtype=torch.bool)
    for _ in range(PASSES - 1):
        again = subject.forward(subject.every_x)
        moved = torch.maximum(moved, (again - first).abs().amax(1) / spread)
        flipped |= again.argmax(1) != first.argmax(1)
    share, labels = (float(which.double().mean()) for which in (moved > SAME, flipped))
    if not share:
        why = f"{PASSES} identical passes give the same outputs: the model is deterministic."
        return Reading(value=0.0, verdict="ok", explanation=why, n=len(first))
    why = (
        f"{percent(share)} of the images get other outputs when the same pass is repeated, {percent(labels)} even "
        "another label: each gradient step follows another function."
    )
    remedy = "Switch the randomness off for evaluation, or attack the mean over many passes (EOT; AutoAttack's 'rand')."
    return Reading(value=share, verdict="masked", explanation=why, remedy=remedy, n=len(first))
