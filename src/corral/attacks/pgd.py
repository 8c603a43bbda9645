"""Projected gradient descent (Madry et al. 2018) in pixel space, for evaluation and inside training."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from corral.attacks.balls import NORMS, Norm, ascend, per_example, project, random_in_ball, start_in_ball
from corral.attacks.checks import check_counts, check_inside, take_eps, take_shapes, take_step_size
from corral.attacks.function import guarded
from corral.attacks.noise import image_keys
from corral.attacks.objectives import Objective, ObjectiveLike, check_finite, prepare, value_and_gradient
from corral.attacks.outcome import Outcome, success
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
    objective: ObjectiveLike = "cross_entropy",
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
        keep: "best" returns, per example, the first misclassified point over x itself, all iterates and all
            restarts, else the one of highest objective; an example's attack ends with its first success.
            "max_loss_restart" returns the final iterate of the restart with the highest objective: the released
            ClusTR code's way, which can miss a success of another restart. "last" is the same for training: with one
            restart no forward pass follows the last step, and values of pixels, labels and logits are not checked,
            which would stop the device.
        mode: "eval", or, with keep "last", "train" to attack batch statistics.
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
    eps = take_eps(eps, norm)
    x, y = take_shapes(x, y)
    check_inside(eps, norm, x.shape[1:])
    check_counts(steps=steps, restarts=restarts)
    step_size = take_step_size(step_size, eps, norm)
    if len(x) == 0:
        return x.clone()
    mixed = torch.is_autocast_enabled(x.device.type)
    with attacked(model, mode), torch.enable_grad(), torch.autocast(x.device.type, enabled=mixed):
        climb = _Climb(
            _directed(prepare(objective, model, x, y), targeted), x, y, targeted, eps, norm, steps, step_size
        )
        indices = torch.arange(len(x), device=x.device)
        best, highest = x, torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
        for _ in range(restarts):
            x_adv = climb.last(random_in_ball(x, eps, norm, generator) if random_start else x)
            if restarts == 1:
                return x_adv
            with torch.no_grad():
                values, _ = climb.target(x_adv, indices)
            better = values > highest
            best = torch.where(per_example(better, x), x_adv, best)
            highest = torch.where(better, values.to(highest.dtype), highest)
        return best


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
    objective: ObjectiveLike = "cross_entropy",
    seed: int = 0,
    random_start: bool = True,
    keep: Literal["best", "max_loss_restart"] = "best",
    targeted: bool = False,
) -> Outcome:
    """`pgd` in eval mode with what it found for each image; random starts depend on seed and image only."""
    keys = image_keys(x, seed)
    target = _directed(prepare(objective, model, x, y, largest_label=int(y.max())), targeted)
    climb = _Climb(target, x, y, targeted, eps, norm, steps, step_size)
    # Two numbers a draw: an L2 start takes two.
    starts = (start_in_ball(x, eps, norm, keys, 2 * i) if random_start else x for i in range(restarts))
    return climb.best(starts) if keep == "best" else climb.max_loss_restart(starts)


@dataclass(frozen=True)
class _Climb:
    """Projected steepest ascent on a batch: arguments as `pgd`, `target` the objective to maximise."""

    target: Objective
    x: Tensor
    y: Tensor
    targeted: bool
    eps: float
    norm: Norm
    steps: int
    step_size: float

    def step(self, x_adv: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        """The next iterates."""
        return project(ascend(x_adv, gradient, self.step_size, self.norm), x, self.eps, self.norm)

    def last(self, x_adv: Tensor) -> Tensor:
        """The last iterate of the whole batch."""
        indices = torch.arange(len(x_adv), device=x_adv.device)
        for _ in range(self.steps):
            _, _, gradient = value_and_gradient(self.target, x_adv, indices)
            x_adv = self.step(x_adv, self.x, gradient)
        return x_adv

    def best(self, starts: Iterable[Tensor]) -> Outcome:
        """The first success of each image over all iterates, else its strongest point; a success ends its attack."""
        x, y, found = self.x, self.y, self.x.clone()
        with torch.no_grad():
            highest, logits = self.target(x, torch.arange(len(x), device=x.device))
        check_finite(logits)
        step_of = torch.where(success(logits, y, self.targeted), 0, -1)
        forwards, backwards = len(x), 0
        for restart, start in enumerate(starts):
            indices = (step_of < 0).nonzero().squeeze(1)
            x_adv = start[indices]
            for step in range(self.steps + 1):
                if len(indices) == 0:
                    break
                forwards += len(indices)
                if step < self.steps:
                    values, logits, gradient = value_and_gradient(self.target, x_adv, indices)
                    backwards += len(indices)
                    check_finite(logits, gradient)
                else:
                    with torch.no_grad():
                        values, logits = self.target(x_adv, indices)
                    check_finite(logits)
                done = success(logits, y[indices], self.targeted)
                better = done | (values > highest[indices])
                found[indices[better]] = x_adv[better]
                highest[indices[better]] = values[better]
                step_of[indices[done]] = restart * (self.steps + 1) + step + 1
                if step == self.steps:
                    break
                if bool(done.any()):
                    indices, x_adv, gradient = indices[~done], x_adv[~done], gradient[~done]
                x_adv = self.step(x_adv, x[indices], gradient)
        return Outcome(found, step_of >= 0, step_of, forwards, backwards)

    def max_loss_restart(self, starts: Iterable[Tensor]) -> Outcome:
        """The released ClusTR code's way: every image is attacked to the end, the restart of highest loss decides."""
        x, found = self.x, self.x
        indices = torch.arange(len(x), device=x.device)
        highest = torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
        step_of = torch.full((len(x),), -1, device=x.device)
        passes = 0
        for restart, start in enumerate(starts, 1):
            x_adv = self.last(start)
            with torch.no_grad():
                values, logits = self.target(x_adv, indices)
            check_finite(logits)
            passes = restart * (self.steps + 1)
            better, done = values > highest, success(logits, self.y, self.targeted)
            found = torch.where(per_example(better, x), x_adv, found)
            highest = torch.where(better, values.to(highest.dtype), highest)
            step_of = torch.where(better, torch.where(done, passes, -1), step_of)
        return Outcome(found, step_of >= 0, step_of, passes * len(x), (passes - restart) * len(x))


def _directed(objective: Objective, targeted: bool) -> Objective:
    """The objective to maximise: as it is, or its negative toward a target."""
    if not targeted:
        return objective

    def evaluate(x_adv: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        values, logits = objective(x_adv, indices)
        return -values, logits

    return evaluate
