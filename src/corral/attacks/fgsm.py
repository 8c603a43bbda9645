"""The fast gradient sign method (Goodfellow et al. 2015): one step of length eps."""

import torch
from torch import Tensor, nn

from corral.attacks.balls import Norm, ascend, project
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
    wrapped = WrappedModel(model)
    wrong = wrapped.clean_logits(x, y).argmax(1) != y
    x_adv, step = x.clone(), torch.where(wrong, 0, -1)
    indices = (~wrong).nonzero().squeeze(1)
    if len(indices):
        _, _, gradient = wrapped.gradient(x[indices], lambda logits: cross_entropy(logits, y[indices]))
        x_adv[indices] = project(ascend(x[indices], gradient, eps, norm), x[indices], eps, norm)
        step[indices[wrapped.logits(x_adv[indices]).argmax(1) != y[indices]]] = 1
    return Outcome(x_adv, step >= 0, step, wrapped.forwards, wrapped.backwards)
