"""Radii for the nearest-centroid rule: how far a feature may move before another class's centroid is nearest."""

from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from corral.geometry.radii.rounding import below, centred, check_clusters, inner_product_error

Method = Literal["exact", "fast"]
# Up to this many own clusters every set of active constraints is tried, beyond it coordinate ascent on the dual.
MOST_ENUMERATED = 4
SWEEPS = 200
# Rival centroids solved for first, those of the nearest bisectors.
CANDIDATES = 8
# Features × rival centroids × own centroids held at once.
CHUNK = 4_000_000
# Features centred at once.
ROWS = 1000


def nearest_radius(
    features: Tensor,
    centroids: Tensor,
    classes: Tensor,
    *,
    method: Method = "exact",
    lipschitz: float = 1.0,
    slack: float = 0.0,
) -> Tensor:
    """(N,) radii within which the nearest centroid keeps its class, sound for every number of clusters.

    With m_ij = (d_j^2 - d_i^2) / (2 ||mu_j - mu_i||), the distance to the bisector of an own centroid i and a rival j:
    "fast" is max over i of min over j of m_ij. "exact" is the distance to the nearest point at which some rival is at
    least as near as every own centroid, min over j of the distance to an intersection of half-spaces, from its dual:
    every feasible dual point is a radius, so that no iteration is unsound. With one cluster a class both are Theorem 1
    of ClusTR, taken over all rivals; the papers' shortcut is `published_radius_unsound`.

    Args:
        features: (N, d) finite.
        centroids: (M, d) finite.
        classes: (M,) integers, of at least two classes.
        method: "exact" or "fast".
        lipschitz: an upper bound on the backbone's l2 Lipschitz constant, > 0: radii are divided by it, and are then in
            the units of its input.
        slack: by how much half the squared distance to the own class's nearest centroid must stay below that of every
            rival's, where centroids or distances are only known so well.

    Returns:
        (N,) float64 l2 radii >= 0, lowered by what rounding could have added; 0 where two classes tie.

    Raises:
        ValueError: another method, shapes, values or constant than these.
    """
    check_clusters(features, centroids, classes)
    if method not in ("exact", "fast"):
        raise ValueError(f"method must be 'exact' or 'fast', found {method!r}")
    if not 0 < lipschitz < float("inf"):
        raise ValueError(f"lipschitz must be positive and finite, found {lipschitz}")
    if not 0 <= slack < float("inf"):
        raise ValueError(f"slack must be finite and at least 0, found {slack}")
    lengths, squares, centres = _measured(features, centroids)
    classes = classes.to(centres.device)
    decided = classes[squares.argmin(1)]
    radii = torch.zeros_like(lengths)
    for label in torch.unique(decided).tolist():
        own, rivals = (classes == label).nonzero()[:, 0], (classes != label).nonzero()[:, 0]
        indices = (decided == label).nonzero()[:, 0]
        for part in torch.split(indices, max(1, CHUNK // (len(own) * len(rivals)))):
            radii[part] = _of_class(lengths[part], squares[part], centres, own, rivals, method, slack)
    return below(radii / lipschitz)


def pairwise_margin(features: Tensor, own: Tensor, rival: Tensor) -> Tensor:
    """(N,) signed distances to two centroids' bisector, (||z - mu_j||^2 - ||z - mu_i||^2) / (2 ||mu_j - mu_i||).

    ClusTR's Theorem 1 over the Lipschitz constant: exact for two centroids, and a radius only where these two are all.
    In float64.

    Args:
        features: (N, d).
        own: (d,) mu_i.
        rival: (d,) mu_j, another point.

    Raises:
        ValueError: equal centroids, or shapes that do not fit.
    """
    if features.dim() != 2 or own.shape != rival.shape or own.shape != features.shape[1:]:
        raise ValueError(
            f"features (N, d) and two centroids (d,) must fit, found {tuple(features.shape)}, {tuple(own.shape)} and "
            f"{tuple(rival.shape)}"
        )
    points, mine, other = features.double(), own.double(), rival.double()
    gap = (other - mine).norm()
    if float(gap) == 0:
        raise ValueError("the centroids are equal: there is no bisector between them")
    # (z - (mu_i + mu_j) / 2)·(mu_i - mu_j): no squares that cancel.
    margins: Tensor = (points - (mine + other) / 2) @ (mine - other) / gap
    return margins


def published_radius_unsound(features: Tensor, centroids: Tensor, classes: Tensor, *, lipschitz: float = 1.0) -> Tensor:
    """(N,) radii as ClusTR states them for more than two classes: of the nearest own and the nearest rival centroid.

    Unsound: the nearest bisector can belong to a farther centroid. For comparison only; use `nearest_radius`.

    Args:
        features: (N, d).
        centroids: (M, d).
        classes: (M,) integers.
        lipschitz: of the backbone.
    """
    check_clusters(features, centroids, classes)
    _, squares, centres = _measured(features, centroids)
    classes = classes.to(centres.device)
    own = classes[squares.argmin(1)].unsqueeze(1) == classes
    nearest, rival = squares.masked_fill(~own, torch.inf).min(1), squares.masked_fill(own, torch.inf).min(1)
    gaps = (centres[rival.indices] - centres[nearest.indices]).norm(dim=1)
    radii = (rival.values - nearest.values) / (2 * gaps)
    return torch.where(gaps > 0, radii, torch.zeros_like(radii)) / lipschitz


def _measured(features: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) lengths of the centred features, (N, M) squared distances and the (M, d) centred centroids.

    Radii are lowered later by what the distances' product form is off by. Features are centred some rows at a time, so
    that their float64 copies stay in the cache.
    """
    _, centres = centred(features[:1], centroids)
    squares = centres.new_empty(len(features), len(centres))
    lengths = centres.new_empty(len(features))
    norms, factors = centres.square().sum(1), -2 * centres.T
    start = 0
    for part in torch.split(features, ROWS):
        points, _ = centred(part, centroids)
        rows = slice(start, start := start + len(part))
        lengths[rows] = points.norm(dim=1)
        squares[rows] = torch.addmm(norms, points, factors).add_(lengths[rows].square().unsqueeze(1))
    return lengths, squares, centres


def _of_class(
    lengths: Tensor, squares: Tensor, centres: Tensor, own: Tensor, rivals: Tensor, method: Method, slack: float
) -> Tensor:
    """(n,) radii of features of these lengths that one class is decided for."""
    mine, others = centres[own], centres[rivals]
    directions = mine.unsqueeze(0) - others.unsqueeze(1)  # (J, K, d): mu_i - mu_j
    gaps = directions.norm(dim=2)
    # h_ij = (d_j^2 - d_i^2) / 2, lowered by its rounding: the half-space {D : (mu_i - mu_j)·D <= -h_ij}.
    heights = (squares[:, rivals].unsqueeze(2) - squares[:, own].unsqueeze(1)).div_(2)
    dimension = centres.shape[1]
    reach = lengths + torch.maximum(mine.norm(dim=1).max(), others.norm(dim=1).max())
    heights = heights.sub_((inner_product_error(dimension, reach.square()) + slack)[:, None, None])
    # Equal centroids have no bisector between them: no margin.
    scales = torch.where(gaps > torch.finfo(gaps.dtype).tiny, 1 / gaps, torch.zeros_like(gaps))
    margins = heights * scales
    if method == "fast":
        return margins.amin(1).amax(1)
    gram = directions @ directions.transpose(1, 2)  # (J, K, K)
    # The distance to an intersection is no less than to any of its half-spaces: few rivals can be the first.
    least = margins.amax(2)
    count = min(CANDIDATES, len(rivals))
    near = least.topk(count, 1, largest=False)
    picked = heights.gather(1, near.indices.unsqueeze(2).expand(-1, -1, len(own)))
    found = _intersections(picked, gram[near.indices], gaps[near.indices], dimension).amin(1)
    if count < len(rivals):
        # The others are at least as far as the farthest of these; where that does not decide, all are solved for.
        open_ = (found > near.values[:, -1]).nonzero()[:, 0]
        if len(open_) > 0:
            found[open_] = _intersections(heights[open_], gram[None], gaps[None], dimension).amin(1)
    return found


def _dual_radius(weights: Tensor, heights: Tensor, gram: Tensor, gaps: Tensor, dimension: int) -> Tensor:
    """(n, T) lower bounds (lambda·h) / ||sum lambda_i (mu_i - mu_j)|| of feasible dual points lambda >= 0."""
    value = (weights * heights).sum(2)
    square = (weights * (gram @ weights.unsqueeze(3)).squeeze(3)).sum(2)
    # Raised by its rounding: near-equal directions cancel in it, and too small a length would promise too much.
    lengths = (weights * gaps).sum(2)
    length = (square.clamp_min(0) + inner_product_error(dimension, lengths.square())).sqrt()
    return torch.where(length > 0, value / length.clamp_min(torch.finfo(length.dtype).tiny), torch.zeros_like(value))


def _subsets(heights: Tensor, gram: Tensor, gaps: Tensor, dimension: int, *, most: int) -> Tensor:
    """(n, T) the largest dual bounds over the sets of at most so many constraints."""
    best = torch.zeros(heights.shape[:2], dtype=heights.dtype, device=heights.device)
    for size in range(1, most + 1):
        for active in map(list, combinations(range(heights.shape[2]), size)):
            weights = torch.zeros_like(heights)
            if size == 1:
                weights[:, :, active] = 1.0
            else:
                inverse = _inverse(gram[..., active, :][..., active])
                weights[:, :, active] = (inverse @ heights[:, :, active].unsqueeze(3)).squeeze(3).clamp_min(0)
            best = torch.maximum(best, _dual_radius(weights, heights, gram, gaps, dimension))
    return best


def _inverse(gram: Tensor) -> Tensor:
    """The inverse of (..., k, k) Gram matrices, in closed form for k = 2; finite for singular ones too."""
    if gram.shape[-1] == 2:
        a, b, c = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
        determinant = a * c - b.square()
        adjugate = torch.stack([torch.stack([c, -b], -1), torch.stack([-b, a], -1)], -2)
        # Only the direction of the weights counts, and any is feasible.
        return adjugate / torch.where(determinant > 0, determinant, torch.ones_like(determinant))[..., None, None]
    inverse: Tensor = torch.linalg.pinv(gram, hermitian=True)
    return inverse


def _intersections(heights: Tensor, gram: Tensor, gaps: Tensor, dimension: int) -> Tensor:
    """(n, T) distances to intersections of K half-spaces each, from the dual: never too large.

    Few half-spaces: over every set of active ones. Many: coordinate ascent, exact in the limit and a radius after any
    number of sweeps. It is slow between nearly parallel constraints, so that every single one and every pair are also
    solved alone, and those that the ascent ends on are solved exactly.

    Args:
        heights: (n, T, K).
        gram: (n or 1, T, K, K) inner products of the half-spaces' normals.
        gaps: (n or 1, T, K) lengths of the normals.
        dimension: d.
    """
    if heights.shape[2] <= MOST_ENUMERATED:
        return _subsets(heights, gram, gaps, dimension, most=heights.shape[2])
    scale = gaps.square().clamp_min(torch.finfo(gaps.dtype).tiny)
    weights = torch.zeros_like(heights)
    single = heights / scale
    start = single.argmax(2, keepdim=True)
    weights.scatter_(2, start, single.gather(2, start).clamp_min(0))
    best = _dual_radius(weights, heights, gram, gaps, dimension)
    for _ in range(SWEEPS):
        for place in range(heights.shape[2]):
            rest = (weights * gram[..., place, :]).sum(2) - weights[:, :, place] * scale[..., place]
            weights[:, :, place] = ((heights[:, :, place] - rest) / scale[..., place]).clamp_min(0)
        found = _dual_radius(weights, heights, gram, gaps, dimension)
        gained = bool((found > best * (1 + 1e-12)).any())
        best = torch.maximum(best, found)
        if not gained:
            break
    active = (weights > 0).to(heights.dtype)
    inverse = _inverse(gram * active.unsqueeze(3) * active.unsqueeze(2))
    polished = (inverse @ (heights * active).unsqueeze(3)).squeeze(3).clamp_min(0) * active
    best = torch.maximum(best, _dual_radius(polished, heights, gram, gaps, dimension))
    return torch.maximum(best, _subsets(heights, gram, gaps, dimension, most=2))
