"""L2 PGD with a radius of its own for each image, to test certificates by."""

from functools import partial

import torch
from torch import Tensor, nn

from corral.attacks.balls import ascend, project, start_in_ball
from corral.attacks.function import guarded
from corral.attacks.noise import image_keys
from corral.attacks.objectives import margin
from corral.attacks.outcome import Outcome
from corral.attacks.wrapped_model import WrappedModel


@guarded()
def pgd_within(
    model: nn.Module, x: Tensor, y: Tensor, radii: Tensor, *, steps: int = 40, restarts: int = 10, seed: int = 0
) -> Outcome:
    """Projected steepest ascent on the margin within each image's own l2 ball; any misclassified iterate counts.

    Args:
        model, x, y: as every attack takes them.
        radii: (N,) l2 radii in pixel units, >= 0.
        steps: gradient steps a restart, each of 2.5 × radius / steps.
        restarts: random starts.
        seed: of the starts, which depend on it and the image only.

    Raises:
        ValueError: impossible arguments, radii or labels, images that are not finite or not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    if radii.shape != y.shape or not bool(((radii >= 0) & torch.isfinite(radii)).all()):
        raise ValueError(f"radii must be ({len(y)},) finite numbers >= 0, found {tuple(radii.shape)}")
    radii = radii.to(x)
    wrapped = WrappedModel(model)
    wrong = wrapped.clean_logits(x, y).argmax(1) != y
    found, step_of = x.clone(), torch.where(wrong, 0, -1)
    keys = image_keys(x, seed)
    passes = 0
    for restart in range(restarts):
        indices = ((step_of < 0) & (radii > 0)).nonzero().squeeze(1)
        points = start_in_ball(x[indices], radii[indices], "L2", keys[indices], 2 * restart)
        for step in range(steps + 1):
            if not len(indices):
                break
            passes += 1
            labels = y[indices]
            if step == steps:
                wrong = wrapped.logits(points).argmax(1) != labels
            else:
                _, logits, gradient = wrapped.gradient(points, partial(margin, y=labels))
                wrong = logits.argmax(1) != labels
            found[indices[wrong]], step_of[indices[wrong]] = points[wrong], passes
            if step < steps:
                moved = ascend(points, gradient, 2.5 * radii[indices] / steps, "L2")
                points = project(moved, x[indices], radii[indices], "L2")
            indices, points = indices[~wrong], points[~wrong]
    return Outcome(found, step_of >= 0, step_of, wrapped.forwards, wrapped.backwards)
