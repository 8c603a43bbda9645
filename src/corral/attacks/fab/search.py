"""FAB's search: the iterates that follow the decision boundary nearest to each image."""

import torch
from torch import Tensor, nn

from corral.attacks.balls import Norm, per_example, select
from corral.attacks.fab.steps import Linearised, at_distance, distances, move, stepped_back
from corral.attacks.noise import image_keys, normal, uniform
from corral.attacks.objectives import margin
from corral.attacks.outcome import Outcome

# A draw's number is restart * RESTART + target.
RESTART = 2**20
# Passes of the final search, section 2.6.
FINAL_SEARCH = 3
# The published radii of the random starts where no budget is given and nothing was found yet.
WIDE: dict[Norm, float] = {"Linf": 0.3, "L2": 1.0, "L1": 5.0}


def search(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float | None,
    norm: Norm,
    steps: int,
    restarts: int,
    targets: int,
    seed: int,
) -> Outcome:
    """Run FAB inside an attack function; arguments as `fab`, eps None for the closest point, whatever its distance."""
    if targets < 0:
        raise ValueError(f"targets must be >= 0, found {targets}")
    with torch.no_grad():
        found = _Search(Linearised(model), x, y, eps, norm, steps)
        likeliest = found.clean.scatter(1, y.unsqueeze(1), -torch.inf).argsort(1, descending=True)
        keys = image_keys(x, seed)
        rounds = min(targets, found.clean.shape[1] - 1) if targets else 1
        for number in range(rounds):
            for restart in range(restarts):
                indices = found.remaining()
                if not len(indices) or eps == 0:
                    break
                start = found.start(indices, keys[indices], restart, number)
                found.run(indices, likeliest[indices, number] if targets else None, start, number * restarts + restart)
        if eps is None:
            found.finish()
    return found.outcome()


class _Search:
    """The closest misclassified point of each image so far, and how far one may be to count.

    `eps` None means that the closest counts, and that no image leaves before the end.
    """

    def __init__(self, wrapped: Linearised, x: Tensor, y: Tensor, eps: float | None, norm: Norm, steps: int) -> None:
        self.wrapped, self.x, self.y, self.eps, self.norm, self.steps = wrapped, x, y, eps, norm, steps
        self.clean = wrapped.clean_logits(x, y)
        self.found = x.clone()
        self.step = torch.where(self.clean.argmax(1) != y, 0, -1)
        self.limits = torch.where(self.step == 0, 0.0, torch.inf if eps is None else eps).to(x.dtype)

    def remaining(self) -> Tensor:
        """(m,) indices of the images that a further run may still change."""
        return ((self.step != 0) if self.eps is None else (self.step < 0)).nonzero().squeeze(1)

    def outcome(self) -> Outcome:
        """The search's result."""
        return Outcome(self.found, self.step >= 0, self.step, self.wrapped.forwards, self.wrapped.backwards)

    def start(self, indices: Tensor, keys: Tensor, restart: int, target: int) -> Tensor:
        """The images themselves for the first restart, then random points at half of the radius."""
        x = self.x[indices]
        if restart == 0:
            return x
        draw, shape = restart * RESTART + target, x.shape[1:]
        noise = uniform(keys, draw, shape) * 2 - 1 if self.norm == "Linf" else normal(keys, draw, shape)
        widest = WIDE[self.norm] if self.eps is None else self.eps
        return at_distance(x, noise.to(x.dtype), self.limits[indices].clamp_max(widest) / 2, self.norm)

    def run(self, indices: Tensor, rivals: Tensor | None, start: Tensor, before: int) -> None:
        """Follow the boundary from `start` for `steps` linearisations; `before`: runs of other targets and restarts.

        `moved` are the iterates of Algorithm 1, `points` where the model is linearised: a misclassified iterate first
        steps back toward its image. Within the limit the pass that shows a right class is the next linearisation too;
        beyond it a forward pass comes first.
        """
        begun = before * self.steps
        points, moved, x, y = start, start, self.x[indices], self.y[indices]
        inside = torch.ones_like(indices, dtype=torch.bool)
        for step in range(1, self.steps + 1):
            logits, values, normals = self.wrapped.linearise(points, y, rivals, self.norm)
            wrong = logits.argmax(1) != y
            stay = self._keep(indices, points, wrong, begun + step) & ~_stuck(points, x, normals)
            if not bool(stay.all()):
                rows = stay.nonzero().squeeze(1)
                if not len(rows):
                    return
                indices, points, moved, x, y, inside, wrong, values, normals = (
                    select(one, rows) for one in (indices, points, moved, x, y, inside, wrong, values, normals)
                )
                rivals = None if rivals is None else rivals[rows]
            again = (inside & wrong).nonzero().squeeze(1)
            if len(again) and step > 1:
                second = stepped_back(select(moved, again), select(x, again))
                others = None if rivals is None else rivals[again]
                logits, second_values, second_normals = self.wrapped.linearise(second, y[again], others, self.norm)
                self._keep(indices[again], second, logits.argmax(1) != y[again], begun + step)
                points, values, normals = points.clone(), values.clone(), normals.clone()
                points[again], values[again], normals[again] = second, second_values, second_normals
            moved = move(points, x, values, normals, self.norm)
            inside = distances(moved, x, self.norm) <= self.limits[indices]
            points = moved
            beyond = (~inside).nonzero().squeeze(1)
            if len(beyond) and step < self.steps:
                past = self.wrapped.logits(select(moved, beyond)).argmax(1) != y[beyond]
                back = beyond[past]
                points = moved.clone()
                points.index_copy_(0, back, stepped_back(select(moved, back), select(x, back)))
        # The last points: those beyond the limit as far as it goes.
        radii = torch.minimum(distances(moved, x, self.norm), self.limits[indices] * (1 - 1e-5))
        last = torch.where(per_example(inside, x), moved, at_distance(x, moved - x, radii, self.norm))
        self._keep(indices, last, self.wrapped.logits(last).argmax(1) != y, begun + self.steps)

    def _keep(self, indices: Tensor, points: Tensor, wrong: Tensor, step: int) -> Tensor:
        """Keep misclassified points within the limits; returns (n,) bool, which rows go on."""
        rows = wrong.nonzero().squeeze(1)
        goes_on = torch.ones_like(wrong)
        if not len(rows):
            return goes_on
        lengths = distances(select(points, rows), self.x[indices[rows]], self.norm)
        within = lengths <= self.limits[indices[rows]]
        rows, lengths = rows[within], lengths[within]
        hits = indices[rows]
        self.found[hits] = points[rows]
        self.step[hits] = torch.where(self.step[hits] < 0, step, self.step[hits])
        if self.eps is None:
            self.limits[hits] = lengths
        else:
            goes_on[rows] = False
        return goes_on

    def finish(self) -> None:
        """Section 2.6: false position on the margin along the line from each image to its misclassified point."""
        indices = (self.step > 0).nonzero().squeeze(1)
        if not len(indices):
            return
        x, found, y = self.x[indices], self.found[indices], self.y[indices]
        low, high = torch.zeros_like(self.limits[indices]), torch.ones_like(self.limits[indices])
        at_low = margin(self.clean[indices], y)
        # In another batch, rounding may deny a margin that was barely positive.
        at_high = margin(self.wrapped.logits(found), y).clamp_min(0)
        for _ in range(FINAL_SEARCH):
            share = low - at_low * (high - low) / (at_high - at_low).clamp_min(torch.finfo(x.dtype).tiny)
            points = (x + (found - x) * per_example(share, x)).clamp(0, 1)
            logits = self.wrapped.logits(points)
            margins = margin(logits, y)
            wrong = logits.argmax(1) != y
            self._keep(indices, points, wrong, 0)
            low, at_low = torch.where(wrong, low, share), torch.where(wrong, at_low, margins)
            high, at_high = torch.where(wrong, share, high), torch.where(wrong, margins, at_high)


def _stuck(points: Tensor, x: Tensor, normals: Tensor) -> Tensor:
    """(n,) bool: a zero gradient at the image itself leads nowhere, at this step or any other."""
    flat = normals.flatten(1).abs().amax(1) == 0
    return flat & (points == x).flatten(1).all(1) if bool(flat.any()) else flat
