"""DeepFool (Moosavi-Dezfooli et al. 2016): walk to the nearest boundary of the linearised model, again and again."""

import torch
from torch import Tensor, nn

from corral.attacks.balls import per_example
from corral.attacks.minimal import Closest, MinimalOutcome, likeliest_rivals, linearised_distances, rival_gaps
from corral.attacks.registry import register_attack

# Published: how far beyond the boundary the points lie.
OVERSHOOT = 0.02


@register_attack("deepfool")
def deepfool(model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 50) -> MinimalOutcome:
    """DeepFool in L2 (Moosavi-Dezfooli et al. 2016, Algorithm 2), overshoot 0.02, over the 10 likeliest classes.

    Pixels at the box's walls take no part in a step that would push them out: the published walk, clipped, can stall
    there. The overshoot is taken back by bisection of the segment to what was found.

    Args:
        model: any module from float [0, 1] images to (N, C) logits; attacked in eval mode, its state is restored.
        x: (N, ...) clean images in [0, 1].
        y: (N,) int64 labels; images that are misclassified as they are return unchanged.
        steps: at most this many; an image is done when it is misclassified.

    Returns:
        Images like x in [0, 1]: the closest misclassified point found; x itself where none was found, or where x is
        misclassified as it is (`deepfool.outcome` tells which). Nothing is drawn at random.

    Raises:
        ValueError: impossible arguments or labels, images that are not finite or not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    closest = Closest(model, x, y)
    indices = closest.remaining
    rivals = likeliest_rivals(closest.logits[indices], y[indices])
    moved, x_adv = torch.zeros_like(x[indices]), x[indices]
    for _ in range(steps):
        if not len(indices):
            break
        gaps, gradients, _ = rival_gaps(closest.wrapped, x_adv, y[indices], rivals)
        # Pixels that the step would push out of the box do not take part: the boundary is reached by the others.
        here = x_adv.unsqueeze(1)
        gradients = gradients.masked_fill(((here <= 0) & (gradients < 0)) | ((here >= 1) & (gradients > 0)), 0)
        distances, lengths = linearised_distances(gaps, gradients)
        near = distances.argmin(1)
        each = torch.arange(len(indices), device=x.device)
        distance, length, gradient = distances[each, near], lengths[each, near], gradients[each, near]
        # Without a gradient to follow an image stays where it is.
        step = torch.where(torch.isfinite(distance), distance / length, 0.0)
        moved = moved + gradient * per_example(step, x)
        x_adv = (x[indices] + (1 + OVERSHOOT) * moved).clamp(0, 1)
        wrong = closest.wrapped.logits(x_adv).argmax(1) != y[indices]
        closest.update(indices, x_adv, wrong)
        stay = ~wrong & torch.isfinite(distance)
        indices, rivals, moved, x_adv = indices[stay], rivals[stay], moved[stay], x_adv[stay]
    closest.bisect()
    return closest.outcome()
