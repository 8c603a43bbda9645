"""Auto-PGD (Croce & Hein 2020; for L1 Croce & Hein 2021): no step size to tune, untargeted or toward rival classes."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corral.attacks.apgd.steps import SparseSteps, Steps, random_start
from corral.attacks.balls import ALL_NORMS, Norm, per_example, select
from corral.attacks.checks import check_labels
from corral.attacks.function import attack_function
from corral.attacks.noise import image_keys
from corral.attacks.objectives import (
    Objective,
    ObjectiveLike,
    check_finite,
    on_logits,
    prepare,
    targeted_dlr,
    value_and_gradient,
)
from corral.attacks.outcome import Outcome
from corral.attacks.projections import project_l1

# A draw's number is attempt * ATTEMPT: every attempt of an image draws its own start.
ATTEMPT = 2**20
# "use_largereps" of the published L1 attack: radii as multiples of eps, and their shares of the steps.
LARGER = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))


@attack_function(ALL_NORMS)
def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    steps: int = 100,
    restarts: int = 1,
    objective: ObjectiveLike = "cross_entropy",
    targets: int = 0,
    eot: int = 1,
    seed: int = 0,
) -> Outcome:
    """Auto-PGD (Croce & Hein 2020, Algorithm 1).

    Args:
        model: any module from float [0, 1] images to (N, C) logits; attacked in eval mode, its state is restored.
        x: (N, ...) clean images in [0, 1].
        y: (N,) int64 labels.
        eps: radius in pixel units and `norm`.
        norm: "Linf", "L2" or "L1" (sparse steps, radii 3, 2 and 1 eps in turn, as published).
        steps: gradient steps an attempt.
        restarts: random starts (of each target, if there are any).
        objective: what an untargeted attack maximises: a name, a function of (logits, labels) to (n,) values, or an
            object that binds itself to model and batch (`corral.attacks.rivals`).
        targets: 0 for the untargeted attack; else the number of rival classes, most likely first, each attacked by
            the targeted difference of logits ratio (at most C - 1; below 4 classes the difference of logits).
        eot: forward and backward passes averaged into each gradient, for models that answer at random.
        seed: of the random starts, which depend on seed and image only.

    Returns:
        Adversarial images like x, within eps and [0, 1]: misclassified ones where found, else of highest objective.

    Raises:
        ValueError: impossible arguments or labels, images that are not finite or not in [0, 1].
        CorralError: the model's logits or gradients are not finite.
    """
    if targets < 0:
        raise ValueError(f"targets must be >= 0, found {targets}")
    with torch.no_grad():
        logits = _mean_logits(model, x, eot)
    check_finite(logits)
    check_labels(y, logits.shape[1])
    search = _Search(model, x, y, eps, norm, steps, eot, logits)
    rivals = None
    if targets:
        others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
        rivals = others.topk(min(targets, logits.shape[1] - 1), 1).indices
    else:
        untargeted = prepare(objective, model, x, y, largest_label=int(y.max()))
    attempts = restarts * (1 if rivals is None else rivals.shape[1])
    widest = eps * LARGER[0][0] if norm == "L1" else eps
    keys = image_keys(x, seed)
    # All attempts but the first share batches: most images robust to the first are robust to all.
    for wave in (range(1), range(1, attempts)):
        size = max(1, len(x) // max(len(wave), 1))
        for examples in torch.split(search.remaining(), size) if len(wave) else ():
            images = examples.repeat(len(wave))
            attempt = torch.tensor(wave, device=x.device).repeat_interleave(len(examples))
            if rivals is None:
                target = _of_images(untargeted, images)
            else:
                # All restarts of the likeliest class come first.
                target = _toward(model, y[images], rivals[images, attempt // restarts])
            start = random_start(x[images], widest, norm, keys[images], attempt * ATTEMPT)
            search.climb(_Wave(images, attempt, target), start)
    return search.outcome()


def _mean_logits(model: nn.Module, x: Tensor, eot: int) -> Tensor:
    total: Tensor = model(x)
    for _ in range(eot - 1):
        total = total + model(x)
    return total / eot


def _of_images(objective: Objective, images: Tensor) -> Objective:
    """The objective of a batch for the rows of a wave, which are of these images."""
    return lambda x_adv, indices: objective(x_adv, images[indices])


def _toward(model: nn.Module, y: Tensor, rivals: Tensor) -> Objective:
    return on_logits(model, lambda logits, indices: targeted_dlr(logits, y[indices], rivals[indices]))


@dataclass(frozen=True)
class _Wave:
    """Rows that are attacked together: the image and the attempt of each, and what they maximise."""

    images: Tensor
    attempts: Tensor
    target: Objective


class _Search:
    """What has been found for each image of the batch so far."""

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: Norm, steps: int, eot: int, logits: Tensor
    ) -> None:
        self.model, self.x, self.y, self.eps, self.norm, self.steps, self.eot = model, x, y, eps, norm, steps, eot
        self.broken = logits.argmax(1) != y
        self.step = torch.where(self.broken, 0, -1)
        self.found = x.clone()
        self.highest = x.new_full((len(x),), -torch.inf)
        self.forwards, self.backwards = eot * len(x), 0

    def remaining(self) -> Tensor:
        """(m,) indices of the images that are still classified right."""
        return (~self.broken).nonzero().squeeze(1)

    def outcome(self) -> Outcome:
        """The search's result."""
        return Outcome(self.found, self.broken, self.step, self.forwards, self.backwards)

    def climb(self, wave: _Wave, x_adv: Tensor) -> None:
        """Run a wave of attempts in step; an image's rows leave when one of them succeeds."""
        done, rows = 0, torch.arange(len(wave.images), device=x_adv.device)
        for factor, share in LARGER if self.norm == "L1" else ((1.0, 1.0),):
            last = factor == 1
            steps = self.steps - done if last else int(share * self.steps)
            if self.norm == "L1":
                x_adv = project_l1(x_adv, self.x[wave.images[rows]], factor * self.eps)
            if steps:
                x_adv = self._stage(wave, rows, x_adv, factor * self.eps, steps, done, counts=last)
            done += steps

    def _stage(
        self, wave: _Wave, rows: Tensor, x_adv: Tensor, eps: float, steps: int, done: int, *, counts: bool
    ) -> Tensor:
        """Climb within one radius; returns the best points. Only with `counts` is the radius the attack's own."""
        images = wave.images[rows]
        labels, x = self.y[images], self.x[images]
        moves = (SparseSteps if self.norm == "L1" else Steps)(x, x_adv, eps, self.norm, steps)
        best = x.new_full((len(rows),), -torch.inf)
        last_value, x_best, gradient_best = best.clone(), x_adv.clone(), torch.zeros_like(x_adv)
        rises = torch.zeros(len(rows), dtype=torch.long, device=x.device)
        since = 0
        for step in range(steps + 1):
            values, logits, gradient = self._pass(wave, rows, x_adv, graph=step < steps)
            if counts and bool((wrong := logits.argmax(1) != labels).any()):
                stay = self._take_successes(wave, rows, x_adv, wrong, done + step)
                if not len(stay):
                    return x_best[:0]
                rows, labels, x_adv, values, gradient, best, last_value, rises, x_best, gradient_best = (
                    select(one, stay)
                    for one in (rows, labels, x_adv, values, gradient, best, last_value, rises, x_best, gradient_best)
                )
                moves.leave(stay)
            better = values > best
            best = torch.where(better, values, best)
            _copy_rows(better, x_adv, x_best)
            if step == steps:
                break
            _copy_rows(better, gradient, gradient_best)
            if step:
                rises += values > last_value
                since += 1
            last_value = values
            if since == moves.period:
                back = moves.review(rises, best, x_best)
                wide = per_example(back, x_adv)
                x_adv, gradient = torch.where(wide, x_best, x_adv), torch.where(wide, gradient_best, gradient)
                since = 0
                rises.zero_()
            x_adv = moves.move(x_adv, gradient)
        if counts:
            self._strongest(wave.images[rows], x_best, best)
        return x_best

    def _pass(self, wave: _Wave, rows: Tensor, x_adv: Tensor, *, graph: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Objective values, logits and gradients, averaged over `eot` passes; no gradient without `graph`."""
        sums: list[Tensor] = []
        for _ in range(self.eot):
            if graph:
                parts = value_and_gradient(wave.target, x_adv, rows)
            else:
                with torch.no_grad():
                    parts = (*wave.target(x_adv, rows), x_adv)
            sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else list(parts)
        self.forwards += self.eot * len(rows)
        self.backwards += self.eot * len(rows) if graph else 0
        values, logits, gradient = (part / self.eot for part in sums) if self.eot > 1 else sums
        check_finite(logits, gradient if graph else None)
        return values, logits, gradient

    def _take_successes(self, wave: _Wave, rows: Tensor, x_adv: Tensor, wrong: Tensor, step: int) -> Tensor:
        """Keep what is misclassified, the first attempt of an image first; returns the (m,) places that go on."""
        images = wave.images[rows]
        hit, winners = _first_of_each(images, wrong, len(self.x))
        self.found[hit] = x_adv[winners]
        self.step[hit] = wave.attempts[rows[winners]] * (self.steps + 1) + step + 1
        self.broken[hit] = True
        return (~self.broken[images]).nonzero().squeeze(1)

    def _strongest(self, images: Tensor, points: Tensor, values: Tensor) -> None:
        """Keep each image's point of highest objective over all attempts."""
        top = self.highest.scatter_reduce(0, images, values.to(self.highest.dtype), "amax")
        risen = (values == top[images]) & (values > self.highest[images])
        hit, winners = _first_of_each(images, risen, len(self.x))
        self.found[hit] = points[winners]
        self.highest = top


def _copy_rows(chosen: Tensor, source: Tensor, target: Tensor) -> None:
    """Copy the rows where `chosen`, (n,) bool, is True: on a CPU several times faster than a mask over all pixels."""
    rows = chosen.nonzero().squeeze(1)
    target.index_copy_(0, rows, select(source, rows))


def _first_of_each(images: Tensor, marked: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Images, of `count`, with a marked row, and the first such row of each: that of the earliest attempt."""
    marks = marked.nonzero().squeeze(1)
    none = torch.full((count,), len(images), device=images.device)
    first = none.scatter_reduce(0, images[marks], marks, "amin")
    hit = (first < len(images)).nonzero().squeeze(1)
    return hit, first[hit]
