"""The fast gradient sign method (Goodfellow et al. 2015): one step of length eps."""

import torch
from torch import Tensor, nn

from corral.attacks.balls import Norm, ascend, project
from corral.attacks.checks import check_labels
from corral.attacks.objectives import cross_entropy
from corral.attacks.outcome import Outcome
from corral.attacks.registry import register_attack
from corral.attacks.wrapped_model import WrappedModel


@register_attack("fgsm")
def fgsm(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: Norm = "Linf") -> Outcome:
    """One step of steepest ascent on cross-entropy, of length eps (Goodfellow et al. 2015; its L2 form for "L2").

    Args:
        model: any module from float [0, 1] images to (N, C) logits; attacked in eval mode, its state is restored.
        x: (N, ...) clean images in [0, 1].
        y: (N,) int64 labels.
        eps: radius in pixel units and `norm`.
        norm: "Linf" or "L2".

    Returns:
        Images like x, within eps and [0, 1]; images that are misclassified as they are return unchanged. Nothing is
        drawn at random.

    Raises:
        ValueError: impossible arguments or labels, images that are not finite or not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    found, broken = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    step = torch.full((len(x),), -1, device=x.device)
    wrapped = WrappedModel(model)
    wrong = wrapped.logits(x).argmax(1) != y
    check_labels(y, wrapped.classes)
    rows = (~wrong).nonzero().squeeze(1)
    if len(rows):
        _, _, gradient = wrapped.gradient(x[rows], lambda logits: cross_entropy(logits, y[rows]))
        found[rows] = project(ascend(x[rows], gradient, eps, norm), x[rows], eps, norm)
        broken[rows] = wrapped.logits(found[rows]).argmax(1) != y[rows]
    step[broken], step[wrong] = 1, 0
    return Outcome(found, broken | wrong, step, wrapped.forwards, wrapped.backwards)
