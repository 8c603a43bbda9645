"""Carlini & Wagner's L2 attack (2017): distance against margin, the weight between them by bisection."""

import math

import torch
from torch import Tensor, nn

from corral.attacks.balls import per_example
from corral.attacks.minimal import Closest, MinimalOutcome, Walks, walks_of
from corral.attacks.registry import register_attack

# Published: tried where the image's gradient says nothing about a better first weight, and its growth and limit.
FIRST_WEIGHT, GROWTH, LARGEST_WEIGHT = 1e-3, 10.0, 1e10
# Published learning rate of Adam, here in pixels; and the share of an image's distance that a step has at most.
LEARNING_RATE, SHARE = 0.01, 0.5
# Adam's own constants.
BETAS, TINY = (0.9, 0.999), 1e-8


@register_attack("carlini_wagner")
def carlini_wagner(model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 100, searches: int = 9) -> MinimalOutcome:
    """Carlini & Wagner's L2 attack (2017, Sec. V-A and VI-A), confidence 0: the closest misclassified point.

    Minimises ||x_adv - x||^2 + weight * max(label's logit - largest rival's, 0) by Adam and searches the weight. Pixels
    are kept in the box by projection (Sec. V-B.1). Departures, all toward shorter distances in fewer passes: an image's
    first weight and its learning rate (at most 0.01) come from its linearised distance; the learning rate anneals to 0
    in each search; where the nearest rival by linearised logits is not the likeliest, a second walk aims at it; the
    segment to what was found is bisected. On linear models the distances are then exact to 0.1%.

    Args:
        model: any module from float [0, 1] images to (N, C) logits; attacked in eval mode, its state is restored.
        x: (N, ...) clean images in [0, 1].
        y: (N,) int64 labels.
        steps: Adam steps a search; published with up to 10,000.
        searches: weights tried, each by a search of its own.

    Returns:
        Images like x in [0, 1]: the closest misclassified point found; x itself where none was found, or where x is
        misclassified as it is (`carlini_wagner.outcome` tells which). Nothing is drawn at random.

    Raises:
        ValueError: impossible arguments or labels, images that are not finite or not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    closest = Closest(model, x, y)
    if not len(closest.remaining):
        return closest.outcome()
    walks = walks_of(closest)
    known = torch.isfinite(walks.distances)
    # The weight at which a linear model's optimum lies just across the boundary is 2 distance / slope.
    weight = torch.where(known, 4 * walks.distances / walks.slopes, FIRST_WEIGHT).double().clamp_max(LARGEST_WEIGHT)
    learning_rate = (SHARE / math.sqrt(x[0].numel()) * walks.distances).clamp_max(LEARNING_RATE)
    low, high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
    for _ in range(searches):
        succeeded = _descend(closest, walks, weight.to(x.dtype), learning_rate, steps)
        low, high = torch.where(succeeded, low, weight), torch.where(succeeded, weight, high)
        weight = torch.where(high.isinf(), weight * GROWTH, (low + high) / 2).clamp_max(LARGEST_WEIGHT)
    closest.bisect()
    return closest.outcome()


def _descend(closest: Closest, walks: Walks, weight: Tensor, learning_rate: Tensor, steps: int) -> Tensor:
    """One search at fixed weights; returns (n,) bool, which walks found a misclassified point."""
    wrapped, x, y = closest.wrapped, closest.x[walks.images], closest.y[walks.images]
    x_adv, mean, square = x, torch.zeros_like(x), torch.zeros_like(x)
    succeeded = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for step in range(1, steps + 1):
        _, logits, gradient = wrapped.gradient(x_adv, lambda logits: -weight * walks.take(logits, y).clamp_max(0))
        wrong = logits.argmax(1) != y
        closest.update(walks.images, x_adv, wrong)
        succeeded |= wrong
        gradient = gradient + 2 * (x_adv - x)
        mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
        square = BETAS[1] * square + (1 - BETAS[1]) * gradient.square()
        move = mean / (1 - BETAS[0] ** step) / ((square / (1 - BETAS[1] ** step)).sqrt() + TINY)
        annealed = learning_rate * (1 + math.cos(math.pi * (step - 1) / steps)) / 2
        x_adv = (x_adv - per_example(annealed, x) * move).clamp(0, 1)
    return succeeded
