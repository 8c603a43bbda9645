"""Guaranteed upper bounds of the norm of a small ReLU network's Jacobian on boxes of inputs."""

import torch
from torch import Tensor

from corral.certify.gram import spectral_norms_upper
from corral.certify.relu_network import ReluNetwork
from corral.geometry.radii.rounding import UNIT

# On one box: patterns of undecided neurons, and undecided neurons along one of them.
MOST_PATTERNS = 64
MOST_UNDECIDED = 8
# Gram iterations for the norms of centre and radius, of which the sum is loose anyway.
ROUGH = 6


def interval_norms(network: ReluNetwork, centre: Tensor, radius: Tensor) -> Tensor:
    """(B,) upper bounds of the Jacobian's norm on boxes of (B, n) centres and radii, for boxes of any size.

    J is kept in an entrywise interval C ± R: ||J|| <= ||C|| + ||R||, as R >= |J - C|. A ReLU is decided where the value
    at the centre exceeds what (|C| + R) radius can change; an undecided one takes [0, 1] = 1/2 ± 1/2.
    """
    errors = network.value_errors(float((centre.norm(dim=1) + radius.norm(dim=1)).max()))
    middle = torch.eye(network.inputs, dtype=torch.float64).expand(len(centre), -1, -1)
    spread, values = torch.zeros_like(middle), centre
    for weight, bias, rectified, error in zip(network.weights, network.biases, network.rectified, errors, strict=True):
        middle, spread, values = weight @ middle, weight.abs() @ spread, values @ weight.T + bias
        if rectified:
            change = ((middle.abs() + spread) @ radius.unsqueeze(2)).squeeze(2) * (1 + 1e-9) + error
            open_, on = (values.abs() <= change).unsqueeze(2), (values > change).unsqueeze(2)
            share = torch.where(open_, 0.5, on.double())
            spread = torch.where(open_, middle.abs() / 2 + spread, spread * on)
            middle, values = middle * share, values.clamp_min(0)
    norms = spectral_norms_upper(middle, iterations=ROUGH) + spectral_norms_upper(spread, iterations=ROUGH)
    return norms * (1 + 1e-9) + 2 * network.jacobian_error


def pattern_norms(network: ReluNetwork, centre: Tensor, radius: Tensor, enough: float) -> Tensor:
    """(B,) upper bounds of the Jacobian's norm on boxes: the largest over the patterns of undecided ReLUs.

    Layer by layer: with the ReLUs before it fixed, a layer is affine, its range on the box exact, and every neuron
    that can have either sign there doubles the patterns. A pattern is dropped if two of its signs cannot hold at once:
    for a pair g_i, g_j >= 0 if g_i + lambda g_j < 0 on the whole box for some lambda > 0 (Farkas; convex in lambda and
    piecewise linear, so one of its breaks is best), or if the neurons are tied. What is left is realised, or
    asks for three kinks or more that all but meet in the box.

    Infinity where more than `MOST_PATTERNS` patterns, or `MOST_UNDECIDED` signs in one, would count. The boxes have
    (B, n) centres and radii; norms up to `enough` are not refined.
    """
    count, inputs = centre.shape
    errors = network.value_errors(float((centre.norm(dim=1) + radius.norm(dim=1)).max()))
    box = torch.arange(count)
    # The network on a pattern is slope (x - centre) + values; its signs are signed (x - centre) + offset >= 0.
    slope, values = torch.eye(inputs, dtype=torch.float64).expand(count, -1, -1), centre
    signed = torch.zeros(count, MOST_UNDECIDED, inputs, dtype=torch.float64)
    offset, used = torch.ones(count, MOST_UNDECIDED, dtype=torch.float64), torch.zeros(count, dtype=torch.long)
    given_up = torch.zeros(count, dtype=torch.bool)
    for weight, bias, rectified, ties, error in zip(
        network.weights, network.biases, network.rectified, network.ties, errors, strict=True
    ):
        slope, values = weight @ slope, values @ weight.T + bias
        if not rectified:
            continue
        change = (slope.abs() @ radius[box].unsqueeze(2)).squeeze(2) * (1 + 1e-9) + error
        open_ = (values.abs() <= change) & (slope != 0).any(2)
        number = open_.sum(1)
        copies = 1 << number.clamp_max(MOST_UNDECIDED)
        many = torch.zeros(count, dtype=torch.long).index_add(0, box, copies) > MOST_PATTERNS
        many[box[used + number > MOST_UNDECIDED]] = True
        given_up = given_up | many
        rows = (~given_up[box]).nonzero()[:, 0]
        rows = rows.repeat_interleave(copies[rows])
        if len(rows) == 0:
            return torch.full((count,), torch.inf, dtype=torch.float64)
        first = torch.cat([torch.ones(1, dtype=torch.bool), rows[1:] != rows[:-1]])
        place = torch.arange(len(rows))
        local = place - place[first][first.cumsum(0) - 1]  # which of its row's copies
        open_, slope, values, box = open_[rows], slope[rows], values[rows], box[rows]
        rank = open_.cumsum(1) - 1
        active = torch.where(open_, (local.unsqueeze(1) >> rank.clamp_min(0)) & 1 > 0, values > 0)
        signed, offset, used = signed[rows], offset[rows], used[rows]
        which, neuron = open_.nonzero(as_tuple=True)
        slot, sign = used[which] + rank[which, neuron], active[which, neuron].double() * 2 - 1
        signed[which, slot] = sign.unsqueeze(1) * slope[which, neuron]
        offset[which, slot] = sign * values[which, neuron]
        used = used + open_.sum(1)
        pairs, equal = ties
        both = open_[:, pairs[0]] & open_[:, pairs[1]]
        torn = (both & ((active[:, pairs[0]] == active[:, pairs[1]]) != equal)).any(1)
        keep = ~torn & ~_contradictory(signed, offset, radius[box], max(errors))
        slope, values = slope * active.unsqueeze(2), values * active
        slope, values, box, signed, offset, used = (part[keep] for part in (slope, values, box, signed, offset, used))
    norms = spectral_norms_upper(slope, enough=enough) + 2 * network.jacobian_error
    found = torch.zeros(count, dtype=torch.float64).scatter_reduce(0, box, norms, "amax")
    return torch.where(given_up, torch.inf, found * (1 + 4 * UNIT))


def _contradictory(signed: Tensor, offset: Tensor, radius: Tensor, error: float) -> Tensor:
    """(R,) whether two of a pattern's conditions a (x - centre) + c >= 0 hold nowhere in the box together."""
    used = int((signed != 0).any(2).sum(1).max()) if len(signed) > 0 else 0
    signed, offset = signed[:, :used], offset[:, :used]
    lambdas = -signed.unsqueeze(2) / signed.unsqueeze(1)  # (R, i, j, n): where a coordinate of the sum vanishes
    valid = (lambdas > 0) & torch.isfinite(lambdas)
    lambdas = torch.where(valid, lambdas, torch.ones_like(lambdas))
    least = offset[:, :, None, None] + lambdas * offset[:, None, :, None]
    for axis in range(signed.shape[2]):
        joined = signed[:, :, None, None, axis] + lambdas * signed[:, None, :, None, axis]
        least = least + joined.abs() * radius[:, None, None, None, axis]
    return ((least < -2 * error * (1 + lambdas)) & valid).flatten(1).any(1)
