"""Projected gradient descent (Madry et al. 2018) in pixel space, for evaluation and inside training."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from corral.attacks.balls import NORMS, Norm, ascend, project, random_in_ball
from corral.attacks.objectives import LogitObjective, Objective, ObjectiveName, prepare
from corral.attacks.state import Mode, attacked
from corral.errors import CorralError

Keep = Literal["best", "last", "max_loss_restart"]


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: int,
    step_size: float,
    restarts: int = 1,
    objective: ObjectiveName | LogitObjective = "cross_entropy",
    generator: torch.Generator | None = None,
    random_start: bool = True,
    keep: Keep = "best",
    mode: Mode = "eval",
) -> Tensor:
    """Maximise an objective over the eps-ball by projected steepest ascent, Eq. 5 of ClusTR for Linf.

    Args:
        model: any module from float [0, 1] NCHW images to (N, C) logits. Attacked in `mode`, without TF32 and without
            autocast (which stays on only with keep "last", as training wants); its mode, buffers and gradients are
            restored.
        x: (N, C, H, W) clean images in [0, 1].
        y: (N,) int64 labels.
        eps: radius in pixel units, so 8/255, not 8.
        norm: "Linf" or "L2".
        steps: gradient steps a restart.
        step_size: length of a step, in pixel units and in `norm`.
        restarts: random starts; each begins anew.
        objective: name (see `corral.attacks.objectives`) or function of (logits, labels) to (N,) values.
        generator: source of the random starts.
        random_start: False starts every restart at x.
        keep: "best" returns, per example, the first misclassified point met over x itself, all iterates and all
            restarts, else the one of highest objective, and stops work on examples as they fall.
            "max_loss_restart" returns the final iterate of the restart with the highest objective: the released
            ClusTR code's way, which can miss a success of another restart. "last" is the same for training: with one
            restart no forward pass follows the last step, and values of pixels, labels and logits are not checked,
            which would stop the device.
        mode: "eval", or, with keep "last", "train" to attack batch statistics (they would change as examples leave).

    Returns:
        Adversarial images like x: within eps of x in `norm`, and in [0, 1].

    Raises:
        ValueError: impossible arguments, labels outside the classes, images that are not finite or not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    for name, choice, choices in (
        ("norm", norm, NORMS),
        ("keep", keep, get_args(Keep)),
        ("mode", mode, get_args(Mode)),
    ):
        if choice not in choices:
            raise ValueError(f"{name} {choice!r} is not one of {', '.join(choices)}")
    if mode == "train" and keep != "last":
        raise ValueError(f"mode 'train' needs keep 'last', found {keep!r}: results are measured in eval mode")
    x = x.detach()
    _check(x, y, eps, norm, steps, step_size, restarts, values=keep != "last")
    if len(x) == 0:
        return x.clone()
    mixed = keep == "last" and torch.is_autocast_enabled(x.device.type)
    with attacked(model, mode), torch.enable_grad(), torch.autocast(x.device.type, enabled=mixed):
        target = prepare(objective, model, x, y, largest_label=None if keep == "last" else int(y.max()))
        if keep == "best":
            search = _Best(target, x, y)
            for _ in range(restarts):
                start = random_in_ball(x, eps, norm, generator) if random_start else x
                search.restart(start, eps, norm, steps, step_size)
            return search.found
        rows = torch.arange(len(x), device=x.device)
        kept, highest = x, torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
        for _ in range(restarts):
            x_adv = random_in_ball(x, eps, norm, generator) if random_start else x
            for _ in range(steps):
                _, _, gradient = _value_and_gradient(target, x_adv, rows)
                x_adv = project(ascend(x_adv, gradient, step_size, norm), x, eps, norm)
            if keep == "last" and restarts == 1:
                return x_adv
            with torch.no_grad():
                values, logits = target(x_adv, rows)
            if keep != "last":
                _check_finite(logits)
            better = values > highest
            kept = torch.where(better.view(-1, *[1] * (x.dim() - 1)), x_adv, kept)
            highest = torch.where(better, values.to(highest.dtype), highest)
        return kept


class _Best:
    """The strongest point found so far for each example of a batch, and the examples still standing."""

    def __init__(self, target: Objective, x: Tensor, y: Tensor) -> None:
        self.target, self.x, self.y = target, x, y
        self.found = x.clone()
        rows = torch.arange(len(x), device=x.device)
        with torch.no_grad():
            values, logits = target(x, rows)
        _check_finite(logits)
        self.highest = values
        self.standing = rows[logits.argmax(1) == y]

    def restart(self, start: Tensor, eps: float, norm: Norm, steps: int, step_size: float) -> None:
        """Climb from `start` with the examples still standing; each leaves as soon as it falls."""
        rows = self.standing
        x_adv = start[rows]
        for step in range(steps + 1):
            if len(rows) == 0:
                break
            if step < steps:
                values, logits, gradient = _value_and_gradient(self.target, x_adv, rows)
                _check_finite(logits, gradient)
            else:
                with torch.no_grad():
                    values, logits = self.target(x_adv, rows)
                _check_finite(logits)
            fallen = logits.argmax(1) != self.y[rows]
            better = fallen | (values > self.highest[rows])
            self.found[rows[better]] = x_adv[better]
            self.highest[rows[better]] = values[better]
            if step == steps:
                rows = rows[~fallen]
                break
            if bool(fallen.any()):
                rows, x_adv, gradient = rows[~fallen], x_adv[~fallen], gradient[~fallen]
            x_adv = project(ascend(x_adv, gradient, step_size, norm), self.x[rows], eps, norm)
        self.standing = rows


def _value_and_gradient(target: Objective, x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Objective values, logits and the gradient with respect to the images, from one forward and one backward."""
    x_adv = x_adv.detach().requires_grad_(True)
    values, logits = target(x_adv, rows)
    (gradient,) = torch.autograd.grad(values.sum(), x_adv)
    return values.detach(), logits.detach(), gradient


def _check_finite(logits: Tensor, gradient: Tensor | None = None) -> None:
    # NaN logits have an argmax too: unchecked, they would pass for a successful attack.
    bad = ~torch.isfinite(logits).all(1)
    if gradient is not None:
        bad = bad | gradient.flatten(1).isnan().any(1)
    if bool(bad.any()):
        raise CorralError(
            f"the model's logits or gradients are not finite for {int(bad.sum())} of {len(logits)} images; "
            "mend the model first"
        )


def _check(
    x: Tensor, y: Tensor, eps: float, norm: str, steps: int, step_size: float, restarts: int, *, values: bool
) -> None:
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps must be a number >= 0, found {eps}")
    if norm == "Linf" and eps > 1:
        raise ValueError(f"eps {eps:g} exceeds the pixel range [0, 1]; did you mean {eps:g}/255?")
    if steps < 1 or restarts < 1 or not 0 < step_size < float("inf"):
        raise ValueError(
            f"steps and restarts must be >= 1, step_size finite and > 0, found {steps}, {restarts}, {step_size}"
        )
    if not x.is_floating_point() or x.dim() < 2:
        raise ValueError(f"images must be floats (N, C, H, W), found {x.dtype} {tuple(x.shape)}")
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise ValueError(f"labels must be int64 ({len(x)},), found {y.dtype} {tuple(y.shape)}")
    if values and len(x):
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{int((~torch.isfinite(x)).flatten(1).any(1).sum())} images hold NaN or infinite pixels")
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            raise ValueError(
                f"pixels must be in [0, 1], found {low:g} to {high:g}; divide by 255 or undo normalisation"
            )
        if int(y.min()) < 0:
            raise ValueError(f"labels must be >= 0, found {int(y.min())}")
