"""Whether the model is one function of the image: layers left in train mode, and answers that change by themselves."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from corral.attacks.state import attacked
from corral.audit.diagnostics.findings import Reading, percent
from corral.audit.diagnostics.subject import DiagnosedModel

# Passes of the same batch that are compared.
PASSES = 4
# Of a row's spread: a thousand times float32's rounding, a tenth of what moves a label in practice.
SAME = 1e-3


def train_mode_layers(subject: DiagnosedModel) -> Reading:
    """How many dropout and batch-norm layers are in train mode as handed over, or stay in it after `eval()`."""
    layers = [module for module in subject.model.modules() if _is(module, _BatchNorm) or _is(module, _DropoutNd)]
    open_now = sum(map(_trains, layers))
    with attacked(subject.model):
        stuck = sum(map(_trains, layers))
    if stuck:
        return Reading(
            value=stuck,
            verdict="masked",
            explanation=f"{stuck} of {len(layers)} dropout and batch-norm layers keep behaving as in training after "
            "model.eval(): answers depend on chance or on the other images of the batch.",
            remedy="Let eval() reach these layers, and give batch norms their running statistics.",
            n=0,
        )
    if open_now:
        return Reading(
            value=open_now,
            verdict="note",
            explanation=f"{open_now} of {len(layers)} dropout and batch-norm layers were handed over in train mode. "
            "corral measures in eval mode; other tools would not.",
            remedy="Call model.eval() before measuring or handing the model on.",
            n=0,
        )
    found = (
        f"All {len(layers)} dropout and batch-norm layers are in eval mode."
        if layers
        else ("The model has no dropout or batch-norm layers.")
    )
    return Reading(value=0, verdict="ok", explanation=found, n=0)


def _is(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of a kind, also where TorchScript has kept only the name of its class."""
    scripted = getattr(torch.nn, str(getattr(module, "original_name", "")), None)
    return isinstance(module, kind) or (isinstance(scripted, type) and issubclass(scripted, kind))


def _trains(layer: nn.Module) -> bool:
    if _is(layer, _BatchNorm):
        return layer.training or getattr(layer, "running_mean", None) is None
    return layer.training and getattr(layer, "p", 1) > 0


def randomness(subject: DiagnosedModel) -> Reading:
    """The share of images whose outputs differ between identical passes by more than rounding."""
    first = subject.outputs
    spread = (first.amax(1) - first.amin(1)).clamp_min(torch.finfo(first.dtype).tiny)
    moved = torch.zeros_like(first[:, 0])
    flipped = torch.zeros_like(first[:, 0], dtype=torch.bool)
    for _ in range(PASSES - 1):
        again = subject.forward(subject.every_x)
        moved = torch.maximum(moved, (again - first).abs().amax(1) / spread)
        flipped |= again.argmax(1) != first.argmax(1)
    share, labels = _share(moved > SAME), _share(flipped)
    if share:
        return Reading(
            value=share,
            verdict="masked",
            explanation=f"{percent(share)} of the images get other outputs when the same pass is repeated, "
            f"{percent(labels)} even another label: each gradient step climbs another function.",
            remedy="Switch the randomness off for evaluation, or attack the mean over many passes (EOT; AutoAttack's "
            "version 'rand').",
            n=len(first),
        )
    return Reading(
        value=0.0,
        verdict="ok",
        explanation=f"{PASSES} identical passes give the same outputs: the model is deterministic.",
        n=len(first),
    )


def _share(which: Tensor) -> float:
    return float(which.double().mean()) if len(which) else 0.0
