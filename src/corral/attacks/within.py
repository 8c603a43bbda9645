"""L2 PGD with a radius of its own for each image: what certificates, which differ from image to image, are tried by."""

from functools import partial

import torch
from torch import Tensor, nn

from corral.attacks.balls import ascend, project, start_in_ball
from corral.attacks.checks import check_labels
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
        model: any module from float [0, 1] images to (N, C) logits; attacked in eval mode, its state is restored.
        x: (N, ...) clean images in [0, 1].
        y: (N,) int64 labels.
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
    wrong = wrapped.logits(x).argmax(1) != y
    check_labels(y, wrapped.classes)
    found, step_of = x.clone(), torch.where(wrong, 0, -1)
    keys = image_keys(x, seed)
    passes = 0
    for restart in range(restarts):
        rows = ((step_of < 0) & (radii > 0)).nonzero().squeeze(1)
        points = start_in_ball(x[rows], radii[rows], "L2", keys[rows], 2 * restart)
        for step in range(steps + 1):
            if not len(rows):
                break
            passes += 1
            labels = y[rows]
            if step == steps:
                fell = wrapped.logits(points).argmax(1) != labels
            else:
                _, logits, gradient = wrapped.gradient(points, partial(margin, y=labels))
                fell = logits.argmax(1) != labels
            found[rows[fell]], step_of[rows[fell]] = points[fell], passes
            if step < steps:
                moved = ascend(points, gradient, 2.5 * radii[rows] / steps, "L2")
                points = project(moved, x[rows], radii[rows], "L2")
            rows, points = rows[~fell], points[~fell]
    return Outcome(found, step_of >= 0, step_of, wrapped.forwards, wrapped.backwards)
