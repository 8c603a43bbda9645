"""Radii of a small network on points of the plane: by its exact Lipschitz constant, by local ones, true ones."""

import copy

import torch
from torch import Tensor

from corral.analysis.document import NONE_RIGHT, Found
from corral.analysis.registry import register_analysis
from corral.analysis.subject import AnalysedModel, labelled
from corral.certify import exact_lipschitz, head_radius, local_lipschitz
from corral.errors import UsageError

# Certified accuracies are given at these radii, up to more than half the distance between the classes of the toy sets.
STEPS, LARGEST = 40, 0.16
# Radii that local constants are asked for, as multiples of the global certificate.
REACHES = (1.0, 1.2, 1.5, 2.0, 3.0)
# True radii are of a grid of so many points a side; cells are drawn on a coarser one.
FINE, COARSE = 801, 31


@register_analysis(
    "radii",
    short="Radii",
    title="Certified and true radii",
    text="Medians over the test points that are classified right, in l2. The Lipschitz constant is exact to 0.1%, "
    "by branch and bound on the unit square; “global” is the distance to the decision's boundary in feature space "
    "over it (Theorem 1), “local” uses the constant around each point, “true” is the nearest point of a grid of "
    "801 × 801 that is decided otherwise. “Room” is true over global.",
    columns=(
        ("accuracy, %", "accuracy", 100.0, 1),
        ("Lipschitz constant", "lipschitz", 1.0, 1),
        ("global radius", "global", 1.0, 4),
        ("local radius", "local", 1.0, 4),
        ("true radius", "true", 1.0, 4),
        ("room", "room", 1.0, 2),
    ),
    unit="medians over points; mean ± sd over seeds",
)
def planar_radii(subject: AnalysedModel) -> Found:
    """Certified and true robustness on the unit square (ClusTR, Fig. 3).

    Numbers: `accuracy`; `lipschitz_lower` and `lipschitz`, bounds of the features' constant on the unit square;
    `global`, `local`, `true`, medians of the radii of the points classified right; `room`, the median of true over
    global radius. Series: `grid` of radii, and the share of the points that are
    classified right with a larger radius, `certified global` (margin over the constant on the square), `certified
    local` (the largest rho that is at most the margin over the constant within rho), `true` (nearest point of a fine
    grid of the square that is decided otherwise: at most half a grid step too large); `cells`, the class decided at
    each point of a coarse grid, row by row; `first`, `second`, `labels`, the test points.

    Raises:
        UsageError: images that are not points of the plane.
    """
    x, y = labelled(subject.test)
    shape = tuple(x.shape[1:])
    if shape != (2, 1, 1):
        raise UsageError(f"data {subject.data}: radii in the plane need points (2, 1, 1), found {shape}")
    model = copy.deepcopy(subject.model).double().cpu()
    points, labels = x.double().cpu(), y.cpu()
    with torch.no_grad():
        features = model.features(points)
        right = model.logits_from(features).argmax(1) == labels
        margins = head_radius(model.head, features)
    everywhere = exact_lipschitz(model, 0.0, 1.0)
    whole = margins / everywhere.upper
    local = whole.clone()
    for reach in REACHES:
        radii = (whole * reach).clamp_min(1e-9)
        around = local_lipschitz(model, points, radii)
        local = torch.maximum(local, torch.minimum(radii, margins / around.upper))
    true = _true_radii(model, points, labels)
    grid = [LARGEST * step / STEPS for step in range(STEPS + 1)]

    def curve(radii: Tensor) -> tuple[float, ...]:
        return tuple(float((right & (radii > radius)).double().mean()) for radius in grid)

    numbers = {"accuracy": float(right.double().mean())}
    numbers |= {"lipschitz": everywhere.upper, "lipschitz_lower": everywhere.lower}
    if bool(right.any()):
        numbers |= {
            "global": float(whole[right].median()),
            "local": float(local[right].median()),
            "true": float(true[right].median()),
            "room": float((true[right] / whole[right].clamp_min(1e-12)).median()),
        }
    series = {
        "grid": tuple(grid),
        "certified global": curve(whole),
        "certified local": curve(local),
        "true": curve(true),
        "cells": tuple(_decided(model, _square(COARSE)).double().tolist()),
        "first": tuple(round(value, 5) for value in points[:, 0].flatten().tolist()),
        "second": tuple(round(value, 5) for value in points[:, 1].flatten().tolist()),
        "labels": tuple(labels.double().tolist()),
    }
    return Found(numbers, series, absent=dict.fromkeys(("global", "local", "true", "room"), NONE_RIGHT))


def _square(side: int) -> Tensor:
    """(side^2, 2, 1, 1) points of a grid on the unit square, row by row from the lower left."""
    steps = torch.linspace(0, 1, side, dtype=torch.float64)
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([columns, rows], -1).view(-1, 2, 1, 1)


def _decided(model: torch.nn.Module, points: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in torch.split(points, 100_000)])


def _true_radii(model: torch.nn.Module, points: Tensor, labels: Tensor) -> Tensor:
    """(N,) distances to the nearest grid point that is decided otherwise than the label."""
    square = _square(FINE)
    decided = _decided(model, square)
    flat = square.flatten(1)
    found = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for label in torch.unique(labels).tolist():
        others = flat[decided != label]
        indices = (labels == label).nonzero()[:, 0]
        for part in torch.split(indices, 16):
            if len(others):
                found[part] = torch.cdist(points[part].flatten(1), others).amin(1)
    return found
