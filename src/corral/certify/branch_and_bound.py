"""The exact l2 Lipschitz constant of a small ReLU network on boxes of inputs, by branch and bound."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corral.certify.jacobian_bounds import interval_norms, pattern_norms
from corral.certify.operator_norms import dense_norm_upper
from corral.certify.relu_network import ReluNetwork, jacobians, relu_network

# Boxes split at once, and points tried in each new box.
BATCH = 256
SAMPLES = 4
# Below this share of the product of the layers' norms a constant counts as zero.
NOTHING = 1e-12


@dataclass(frozen=True)
class LipschitzInterval:
    """What is known of an l2 Lipschitz constant on a box.

    Attributes:
        lower: the norm of the Jacobian at a point of the box: the constant is no smaller.
        upper: certified: no larger.
        boxes: how many were bounded.
        seconds: that it took.
        converged: whether upper <= lower × (1 + tolerance); if not, a budget ended the search.
    """

    lower: float
    upper: float
    boxes: int
    seconds: float
    converged: bool


@dataclass(frozen=True)
class LocalLipschitz:
    """`LipschitzInterval` around each of N points: (N,) float64 `lower` and `upper`, (N,) bool `converged`."""

    lower: Tensor
    upper: Tensor
    boxes: int
    seconds: float
    converged: Tensor


def exact_lipschitz(
    module: nn.Module,
    low: float | Tensor,
    high: float | Tensor,
    *,
    tolerance: float = 1e-3,
    most_boxes: int = 500_000,
    seconds: float = 60.0,
) -> LipschitzInterval:
    """The l2 Lipschitz constant of an MLP's features on the box low <= x <= high, between two bounds.

    The constant is the largest norm of the Jacobian over the pieces that the network is affine on. Boxes are bounded
    by `interval_norms` and, where few ReLUs are undecided, by `pattern_norms`; those that may hold more than what
    was found at a point are split in two across the side that moves the first layer most. Rounding is paid for.

    Neurons of a layer that are multiples of each other are known to be tied. Where three kinks or more meet in exactly
    one point otherwise, or kinks of different layers coincide (both in networks without biases at 0, or with round
    numbers for weights), patterns that are realised nowhere cannot be told from real ones however small the box: the
    bounds then stay apart, both hold, and `converged` is False. Meant for inputs of up to 3 dimensions or so.

    Args:
        module: an MLP, a `Classifier` with one (the constant is then in pixel units), or an nn.Sequential of Linear and
            ReLU.
        low: a number or (n,), finite.
        high: a number or (n,), above low.
        tolerance: relative, > 0. A constant below 1e-12 of the product of the layers' norms counts as 0.
        most_boxes: the search ends after this many.
        seconds: and after this time.

    Raises:
        UsageError: a module of other layers.
        ValueError: an empty box, a tolerance that is not positive, weights that are not finite.
    """
    network = relu_network(module)
    corners = [torch.as_tensor(side, dtype=torch.float64).detach().cpu() for side in (low, high)]
    if any(side.shape not in ((), (network.inputs,)) for side in corners):
        shapes = " and ".join(str(tuple(side.shape)) for side in corners)
        raise ValueError(f"low and high must be numbers or ({network.inputs},), found {shapes}")
    least, most = (side.expand(1, network.inputs) for side in corners)
    found = _search(network, least, most, tolerance, most_boxes, seconds)
    return LipschitzInterval(
        float(found.lower[0]), float(found.upper[0]), found.boxes, found.seconds, bool(found.converged[0])
    )


def local_lipschitz(
    module: nn.Module,
    points: Tensor,
    radius: float | Tensor,
    *,
    tolerance: float = 1e-2,
    most_boxes: int = 500_000,
    seconds: float = 60.0,
) -> LocalLipschitz:
    """The l2 Lipschitz constants of an MLP's features on the cubes |x - point| <= radius around N points.

    A cube holds the l2 ball of its radius, so `upper` is sound on the ball; `lower` is of the cube. All points share
    the budgets.

    Args:
        module: as `exact_lipschitz` takes it.
        points: (N, ...) of n values each, finite.
        radius: a number or (N,), > 0.
        tolerance: relative, > 0.
        most_boxes: the search ends after this many, for all points.
        seconds: and after this time.

    Raises:
        UsageError: a module of other layers.
        ValueError: points of another size, a radius or tolerance that is not positive, weights that are not finite.
    """
    network = relu_network(module)
    centre = points.detach().double().cpu().flatten(1)
    if centre.shape[1] != network.inputs:
        raise ValueError(f"points must have {network.inputs} values each, found {tuple(points.shape)}")
    reach = torch.as_tensor(radius, dtype=torch.float64).detach().cpu()
    if reach.shape not in ((), (len(centre),)):
        raise ValueError(f"radius must be a number or ({len(centre)},), found {tuple(reach.shape)}")
    reach = reach.expand(len(centre)).unsqueeze(1)
    low, high = (centre - reach).nextafter(centre - torch.inf), (centre + reach).nextafter(centre + torch.inf)
    return _search(network, low, high, tolerance, most_boxes, seconds)


def _search(
    network: ReluNetwork, low: Tensor, high: Tensor, tolerance: float, most_boxes: int, seconds: float
) -> LocalLipschitz:
    """Branch and bound on (N, n) boxes at once, each with its own constant."""
    if not bool(torch.isfinite(low).all() & torch.isfinite(high).all() & (low < high).all()):
        raise ValueError("every box must be finite with low < high")
    if not 0 < tolerance < float("inf"):
        raise ValueError(f"tolerance must be positive and finite, found {tolerance}")
    start, count = time.monotonic(), len(low)
    generator = torch.Generator().manual_seed(0)
    ceiling = 1.0
    for weight in network.weights:
        ceiling *= dense_norm_upper(weight) * (1 + 1e-15)
    lower, settled = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    influence = network.weights[0].norm(dim=0)
    # Boxes that may hold more than was found, the owner of each and its bound; the first are yet to be bounded.
    box, upper = torch.arange(count), torch.full((count,), ceiling, dtype=torch.float64)
    new = torch.ones(count, dtype=torch.bool)
    boxes = 0
    while True:
        for some in torch.split(new.nonzero()[:, 0], BATCH) if len(new) > 0 else ():
            lower = lower.scatter_reduce(0, box[some], _found(network, low[some], high[some], generator), "amax")
            goal = (lower * (1 + tolerance)).clamp_min(NOTHING * network.product)
            upper[some] = torch.minimum(upper[some], _bounded(network, low[some], high[some], goal[box[some]]))
            boxes += len(some)
        goal = (lower * (1 + tolerance)).clamp_min(NOTHING * network.product)
        done = upper <= goal[box]
        settled = settled.scatter_reduce(0, box[done], upper[done], "amax")
        low, high, box, upper = low[~done], high[~done], box[~done], upper[~done]
        if len(box) == 0 or boxes >= most_boxes or time.monotonic() - start >= seconds:
            break
        worst = (upper / goal[box].clamp_min(1e-300)).topk(min(BATCH, len(box))).indices
        stay = torch.ones(len(box), dtype=torch.bool)
        stay[worst] = False
        halves = _halves(low[worst], high[worst], influence)
        low, high = torch.cat([low[stay], halves[0]]), torch.cat([high[stay], halves[1]])
        new = torch.cat([torch.zeros(int(stay.sum()), dtype=torch.bool), torch.ones(2 * len(worst), dtype=torch.bool)])
        box, upper = (torch.cat([part[stay], part[worst], part[worst]]) for part in (box, upper))
    top = settled.scatter_reduce(0, box, upper, "amax")
    return LocalLipschitz(lower, top, boxes, time.monotonic() - start, top <= goal)


def _found(network: ReluNetwork, low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) norms of the Jacobian at the best of a few points in each box: its centre, and random ones."""
    share = torch.rand(len(low), SAMPLES, low.shape[1], generator=generator, dtype=torch.float64)
    share[:, 0] = 0.5
    slopes, sure = jacobians(network, (low.unsqueeze(1) + share * (high - low).unsqueeze(1)).flatten(0, 1))
    norms: Tensor = torch.linalg.matrix_norm(slopes, 2) * (1 - 1e-12) - 2 * network.jacobian_error
    return torch.where(sure, norms.clamp_min(0), 0.0).view(len(low), -1).amax(1)


def _bounded(network: ReluNetwork, low: Tensor, high: Tensor, goal: Tensor) -> Tensor:
    """(B,) upper bounds of the Jacobian's norm on boxes, refined where the first one is above what is enough."""
    centre = (low + high) / 2
    radius = torch.maximum(high - centre, centre - low)
    upper = interval_norms(network, centre, radius)
    open_ = (upper > goal).nonzero()[:, 0]
    if len(open_) > 0:
        enough = float(goal[open_].min())
        upper[open_] = torch.minimum(upper[open_], pattern_norms(network, centre[open_], radius[open_], enough))
    return upper


def _halves(low: Tensor, high: Tensor, influence: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes cut in two across the side that moves the first layer's values most: all first halves, then all second."""
    axis = ((high - low) * influence).argmax(1, keepdim=True)
    middle = (low + high) / 2
    at = torch.zeros_like(low, dtype=torch.bool).scatter(1, axis, True)
    return torch.cat([low, torch.where(at, middle, low)]), torch.cat([torch.where(at, middle, high), high])
