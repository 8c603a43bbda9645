"""The momentum iterative method MI-FGSM (Dong et al. 2018): sign steps along accumulated gradients."""

from functools import partial

import torch
from torch import Tensor, nn

from corral.attacks.balls import Norm, ascend, per_example, project
from corral.attacks.objectives import cross_entropy
from corral.attacks.registry import register_attack
from corral.attacks.wrapped_model import WrappedModel


@register_attack("mi-fgsm")
def mi_fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: int = 10,
    momentum: float = 1.0,
    step_size: float | None = None,
) -> Tensor:
    """MI-FGSM: steps along an accumulated gradient of the cross-entropy, each gradient divided by its l1 norm.

    Dong et al. 2018, "Boosting adversarial attacks with momentum", Eq. 6 and 7; for L2 Eq. 8, without the sign. It
    starts at the image itself and returns the last point; nothing is drawn at random.

    Args:
        model: any module from float [0, 1] images to (N, C) logits; attacked in eval mode, its state is restored.
        x: (N, ...) clean images in [0, 1].
        y: (N,) int64 labels.
        eps: radius in pixel units and `norm`.
        norm: "Linf" or "L2".
        steps: gradient steps.
        momentum: mu, what is kept of the accumulated gradient at each step; 0 is the basic iterative method.
        step_size: in pixel units; None for eps / steps, as published.

    Returns:
        Adversarial images like x, within eps and [0, 1]; images that are misclassified as they are return unchanged.

    Raises:
        ValueError: impossible arguments or labels, images that are not finite or not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    if step_size is None:
        step_size = eps / steps
    wrapped, x_adv, accumulated = WrappedModel(model), x, torch.zeros_like(x)
    for _ in range(steps):
        _, _, gradient = wrapped.gradient(x_adv, partial(cross_entropy, y=y))
        lengths = gradient.flatten(1).abs().sum(1).clamp_min(torch.finfo(x.dtype).tiny)
        accumulated = momentum * accumulated + gradient / per_example(lengths, x)
        x_adv = project(ascend(x_adv, accumulated, step_size, norm), x, eps, norm)
    return x_adv
