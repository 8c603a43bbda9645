"""Decoupled direction and norm (Rony et al. 2019): the closest misclassified point in L2 by steps on a sphere."""

import math

import torch
from torch import Tensor, nn

from corral.attacks.balls import ascend, l2_norms, per_example
from corral.attacks.minimal import Closest, MinimalOutcome, Walks, walks_of
from corral.attacks.noise import image_keys, normal
from corral.attacks.outcome import success
from corral.attacks.registry import register_attack

# Published: the first norm, its change a step, and the first and last step size (cosine annealing).
FIRST_NORM, GAMMA, FIRST_STEP, LAST_STEP = 1.0, 0.05, 1.0, 0.01


@register_attack("ddn")
def ddn(
    model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 100, seed: int = 0, targeted: bool = False
) -> MinimalOutcome:
    """Decoupled direction and norm (Rony et al. 2019, Algorithm 1): the closest misclassified point in L2.

    Departures, all toward shorter distances: the first norm is an image's linearised distance where that is below the
    published 1; the direction is the gradient of the margin, not of cross-entropy, which mixes all rivals; where the
    nearest rival by linearised logits is not the likeliest, a second walk aims at it; the segment to what was found is
    bisected.

    Args:
        model: any module from float [0, 1] images to (N, C) logits; attacked in eval mode, its state is restored.
        x: (N, ...) clean images in [0, 1].
        y: (N,) int64 labels.
        steps: gradient steps; published with 100, 300 and 1000.
        seed: of the directions taken where the gradient is zero.
        targeted: y are then the classes to reach: the closest point that is classified as y.

    Returns:
        Images like x in [0, 1]: the closest misclassified point found; x itself where none was found, or where x is
        misclassified as it is (`ddn.outcome` tells which).

    Raises:
        ValueError: impossible arguments or labels, images that are not finite or not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    closest = Closest(model, x, y, targeted=targeted)
    if len(closest.remaining):
        _walk(closest, walks_of(closest), image_keys(x, seed), steps)
        closest.bisect()
    return closest.outcome()


def _walk(closest: Closest, walks: Walks, keys: Tensor, steps: int) -> None:
    wrapped, x, y, keys = closest.wrapped, closest.x[walks.images], closest.y[walks.images], keys[walks.images]
    farthest = l2_norms(torch.maximum(x, 1 - x))
    norms = walks.distances.clamp_max(FIRST_NORM)
    x_adv = x
    for step in range(steps):
        _, logits, gradient = wrapped.gradient(x_adv, lambda logits: walks.take(logits, y))
        wrong = success(logits, y, closest.targeted)
        closest.update(walks.images, x_adv, wrong)
        lost = gradient.flatten(1).abs().amax(1) == 0
        if bool(lost.any()):
            gradient[lost] = normal(keys[lost], step, x.shape[1:]).to(x.dtype)
        size = LAST_STEP + (FIRST_STEP - LAST_STEP) * (1 + math.cos(math.pi * step / steps)) / 2
        delta = ascend(x_adv, gradient, size, "L2") - x
        norms = torch.minimum(norms * torch.where(wrong, 1 - GAMMA, 1 + GAMMA), farthest)
        lengths = l2_norms(delta).clamp_min(torch.finfo(x.dtype).tiny)
        x_adv = (x + delta * per_example(norms / lengths, x)).clamp(0, 1)
    closest.update(walks.images, x_adv, success(wrapped.logits(x_adv), y, closest.targeted))
