"""One step of FAB: linearise the model's decision, move to the boundary of the linearisation, step back."""

import torch
from torch import Tensor

from corral.attacks.balls import Norm, per_example
from corral.attacks.projections import to_hyperplane
from corral.attacks.wrapped_model import WrappedModel

# Published: the largest bias toward the image, the overshoot, and what remains of the perturbation after a step back.
ALPHA_MAX, ETA, BETA = 0.1, 1.05, 0.9
ORDERS: dict[Norm, float] = {"Linf": torch.inf, "L2": 2.0, "L1": 1.0}
DUAL_ORDERS: dict[Norm, float] = {"Linf": 1.0, "L2": 2.0, "L1": torch.inf}


def distances(points: Tensor, x: Tensor, norm: Norm) -> Tensor:
    """(N,) distances between (N, ...) points."""
    return _lengths((points - x).flatten(1), norm)


def _lengths(deltas: Tensor, norm: Norm) -> Tensor:
    """Norms over the last dimension."""
    # The same number; vector_norm takes nine times as long for Linf.
    lengths: Tensor = (
        deltas.abs().amax(-1) if norm == "Linf" else torch.linalg.vector_norm(deltas, ORDERS[norm], dim=-1)
    )
    return lengths


def at_distance(x: Tensor, directions: Tensor, radii: Tensor, norm: Norm) -> Tensor:
    """Points at distances `radii` (N,) from x (N, ...) in the directions given, clipped to [0, 1]."""
    lengths = _lengths(directions.flatten(1), norm)
    return (x + directions * per_example(radii / lengths.clamp_min(torch.finfo(x.dtype).tiny), x)).clamp(0, 1)


def stepped_back(points: Tensor, x: Tensor) -> Tensor:
    """Eq. (10): the share BETA of the way from the image to the point."""
    return x + BETA * (points - x)


def move(points: Tensor, x: Tensor, values: Tensor, normals: Tensor, norm: Norm) -> Tensor:
    """Eq. (9): to the linearised boundary and past it, from the point and, with weight alpha, from the image.

    Args:
        points: (n, ...) where the decision was linearised, in [0, 1].
        x: (n, ...) the images.
        values: (n,) differences of logits at the points, rival minus label.
        normals: (n, ...) their gradients.
        norm: the distance that is made small.
    """
    starts = torch.stack([points.flatten(1), x.flatten(1)])
    flat = normals.flatten(1)
    heights = torch.stack([values, values + (flat * (starts[1] - starts[0])).sum(1)])
    moves = to_hyperplane(starts, flat.unsqueeze(0), heights, norm)
    lengths = _lengths(moves, norm).clamp_min(1e-8).unsqueeze(2)
    alpha = (lengths[0] / (lengths[0] + lengths[1])).clamp_max(ALPHA_MAX)
    ends = moves.mul_(ETA).add_(starts)
    return torch.lerp(ends[0], ends[1], alpha).clamp_(0, 1).view_as(x)


class Linearised(WrappedModel):
    """A model that gives a difference of logits, rival minus label, with its gradient."""

    def linearise(self, x: Tensor, y: Tensor, rivals: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
        """(n, C) logits, (n,) differences of logits, rival minus label, and (n, ...) their gradients.

        Args:
            x: (n, ...) images.
            y: (n,) labels.
            rivals: (n,) classes, or None for the one whose linearised boundary is nearest in this norm, Eq. (8).
        """
        if rivals is None:
            return self._nearest(x, y, norm)
        values, logits, gradient = self.gradient(x, lambda logits: _difference(logits, rivals, y))
        return logits, values, gradient

    def _nearest(self, x: Tensor, y: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            logits = self.model(x)
            self._check(logits, len(x))
            values = [_difference(logits, (y + shift) % self.classes, y) for shift in range(1, self.classes)]
        nearest = x.new_full((len(x),), torch.inf)
        # What stays where every gradient is zero.
        value, normal = torch.stack(values).amax(0), torch.zeros_like(x)
        for number, candidate in enumerate(values):
            gradient = self._gradient_of(candidate, x, retain=number < len(values) - 1)
            dual = torch.linalg.vector_norm(gradient.flatten(1), DUAL_ORDERS[norm], dim=1)
            distance = candidate.abs() / dual.clamp_min(torch.finfo(dual.dtype).tiny)
            nearer = distance < nearest
            nearest, value = torch.where(nearer, distance, nearest), torch.where(nearer, candidate, value)
            normal = torch.where(per_example(nearer, x), gradient, normal)
        return logits.detach(), value.detach(), normal.detach()


def _difference(logits: Tensor, rivals: Tensor, y: Tensor) -> Tensor:
    return (logits.gather(1, rivals.unsqueeze(1)) - logits.gather(1, y.unsqueeze(1))).squeeze(1)
