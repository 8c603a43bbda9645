"""Projected gradient descent (Madry et al. 2018) in pixel space, for evaluation and inside training."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from corral.attacks.balls import NORMS, Norm, ascend, per_example, project, random_in_ball, start_in_ball
from corral.attacks.checks import check_counts, check_shapes, check_threat
from corral.attacks.function import guarded
from corral.attacks.noise import image_keys
from corral.attacks.objectives import (
    LogitObjective,
    ModelObjective,
    Objective,
    ObjectiveName,
    check_finite,
    prepare,
    value_and_gradient,
)
from corral.attacks.outcome import Outcome, fallen
from corral.attacks.state import Mode, attacked

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
    objective: ObjectiveName | LogitObjective | ModelObjective = "cross_entropy",
    generator: torch.Generator | None = None,
    random_start: bool = True,
    keep: Keep = "best",
    mode: Mode = "eval",
    targeted: bool = False,
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
        objective: name (see `corral.attacks.objectives`), function of (logits, labels) to (N,) values, or object that
            binds itself to model and batch.
        generator: source of the random starts; unless keep is "last", of one number from which each image has its own.
        random_start: False starts every restart at x.
        keep: "best" returns, per example, the first misclassified point met over x itself, all iterates and all
            restarts, else the one of highest objective, and stops work on examples as they fall.
            "max_loss_restart" returns the final iterate of the restart with the highest objective: the released
            ClusTR code's way, which can miss a success of another restart. "last" is the same for training: with one
            restart no forward pass follows the last step, and values of pixels, labels and logits are not checked,
            which would stop the device.
        mode: "eval", or, with keep "last", "train" to attack batch statistics (they would change as examples leave).
        targeted: y are then the classes to reach: the objective is minimised, and "misclassified" above means
            "classified as y".

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
    if keep != "last":
        device = torch.device("cpu") if generator is None else generator.device
        return pgd_outcome(
            model,
            x,
            y,
            eps=eps,
            norm=norm,
            steps=steps,
            step_size=step_size,
            restarts=restarts,
            objective=objective,
            seed=int(torch.randint(2**62, (), generator=generator, device=device)),
            random_start=random_start,
            keep=keep,
            targeted=targeted,
        ).x_adv
    check_shapes(x, y)
    check_threat(eps, norm)
    check_counts(steps=steps, restarts=restarts)
    _check_step_size(step_size)
    x = x.detach()
    if len(x) == 0:
        return x.clone()
    mixed = torch.is_autocast_enabled(x.device.type)
    with attacked(model, mode), torch.enable_grad(), torch.autocast(x.device.type, enabled=mixed):
        target = _directed(prepare(objective, model, x, y), targeted)
        rows = torch.arange(len(x), device=x.device)
        kept, highest = x, torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
        for _ in range(restarts):
            x_adv = random_in_ball(x, eps, norm, generator) if random_start else x
            x_adv = _climbed(target, x_adv, x, rows, eps, norm, steps, step_size)
            if restarts == 1:
                return x_adv
            with torch.no_grad():
                values, _ = target(x_adv, rows)
            better = values > highest
            kept = torch.where(per_example(better, x), x_adv, kept)
            highest = torch.where(better, values.to(highest.dtype), highest)
        return kept


@guarded(NORMS)
def pgd_outcome(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: int,
    step_size: float,
    restarts: int = 1,
    objective: ObjectiveName | LogitObjective | ModelObjective = "cross_entropy",
    seed: int = 0,
    random_start: bool = True,
    keep: Literal["best", "max_loss_restart"] = "best",
    targeted: bool = False,
) -> Outcome:
    """`pgd` in eval mode with what it found for each image; random starts depend on seed and image only."""
    _check_step_size(step_size)
    keys = image_keys(x, seed)
    target = _directed(prepare(objective, model, x, y, largest_label=int(y.max())), targeted)
    search = (_Best if keep == "best" else _MaxLossRestart)(target, x, y, targeted)
    for restart in range(restarts):
        # Two numbers a draw: an L2 start takes two.
        start = start_in_ball(x, eps, norm, keys, 2 * restart) if random_start else x
        search.restart(start, eps, norm, steps, step_size)
    return Outcome(search.found, search.broken, search.step, search.forwards, search.backwards)


class _Best:
    """The strongest point found so far for each example of a batch, and the examples still standing."""

    def __init__(self, target: Objective, x: Tensor, y: Tensor, targeted: bool) -> None:
        self.target, self.x, self.y, self.targeted = target, x, y, targeted
        self.found = x.clone()
        rows = torch.arange(len(x), device=x.device)
        with torch.no_grad():
            values, logits = target(x, rows)
        check_finite(logits)
        self.highest = values
        self.broken = fallen(logits, y, targeted)
        self.step = torch.where(self.broken, 0, -1)
        self.forwards, self.backwards, self.before = len(x), 0, 0

    def restart(self, start: Tensor, eps: float, norm: Norm, steps: int, step_size: float) -> None:
        """Climb from `start` with the examples still standing; each leaves as soon as it falls."""
        rows = (~self.broken).nonzero().squeeze(1)
        x_adv = start[rows]
        for step in range(steps + 1):
            if len(rows) == 0:
                break
            self.forwards += len(rows)
            if step < steps:
                values, logits, gradient = value_and_gradient(self.target, x_adv, rows)
                self.backwards += len(rows)
                check_finite(logits, gradient)
            else:
                with torch.no_grad():
                    values, logits = self.target(x_adv, rows)
                check_finite(logits)
            fell = fallen(logits, self.y[rows], self.targeted)
            better = fell | (values > self.highest[rows])
            self.found[rows[better]] = x_adv[better]
            self.highest[rows[better]] = values[better]
            self.broken[rows[fell]] = True
            self.step[rows[fell]] = self.before + step + 1
            if step == steps:
                break
            if bool(fell.any()):
                rows, x_adv, gradient = rows[~fell], x_adv[~fell], gradient[~fell]
            x_adv = project(ascend(x_adv, gradient, step_size, norm), self.x[rows], eps, norm)
        self.before += steps + 1


class _MaxLossRestart:
    """The released ClusTR code's way: every image is attacked to the end, the restart of highest loss decides."""

    def __init__(self, target: Objective, x: Tensor, y: Tensor, targeted: bool) -> None:
        self.target, self.x, self.y, self.targeted = target, x, y, targeted
        self.rows = torch.arange(len(x), device=x.device)
        self.found, self.highest = x, torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.step = torch.full((len(x),), -1, device=x.device)
        self.forwards = self.backwards = self.before = 0

    def restart(self, start: Tensor, eps: float, norm: Norm, steps: int, step_size: float) -> None:
        """Climb from `start` to the last step and keep that point where its loss is the highest so far."""
        x_adv = _climbed(self.target, start, self.x, self.rows, eps, norm, steps, step_size)
        with torch.no_grad():
            values, logits = self.target(x_adv, self.rows)
        check_finite(logits)
        self.forwards += (steps + 1) * len(self.x)
        self.backwards += steps * len(self.x)
        self.before += steps + 1
        better, wrong = values > self.highest, fallen(logits, self.y, self.targeted)
        self.found = torch.where(per_example(better, self.x), x_adv, self.found)
        self.highest = torch.where(better, values.to(self.highest.dtype), self.highest)
        self.broken = torch.where(better, wrong, self.broken)
        self.step = torch.where(better, torch.where(wrong, self.before, -1), self.step)


def _directed(objective: Objective, targeted: bool) -> Objective:
    """The objective to maximise: as it is, or its negative toward a target."""
    if not targeted:
        return objective

    def evaluate(x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        values, logits = objective(x_adv, rows)
        return -values, logits

    return evaluate


def _climbed(
    target: Objective, x_adv: Tensor, x: Tensor, rows: Tensor, eps: float, norm: Norm, steps: int, step_size: float
) -> Tensor:
    for _ in range(steps):
        _, _, gradient = value_and_gradient(target, x_adv, rows)
        x_adv = project(ascend(x_adv, gradient, step_size, norm), x, eps, norm)
    return x_adv


def _check_step_size(step_size: float) -> None:
    if not 0 < step_size < float("inf"):
        raise ValueError(f"step_size must be finite and > 0, found {step_size}")
