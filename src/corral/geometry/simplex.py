"""The regular simplex that lies nearest to the means of classes."""

import torch
from torch import Tensor

from corral.geometry.centres import max_mahalanobis_centres


def fitted_simplex(points: Tensor) -> tuple[Tensor, Tensor]:
    """The regular simplex p_c = c_bar + r m_c nearest to (C, d) points in the sum of squared distances.

    c_bar is the points' mean and m_c are unit vectors of pairwise cosine -1 / (C - 1): those of
    `max_mahalanobis_centres` turned into the points' space (orthogonal Procrustes; Schönemann 1966). With S their
    (C, C - 1) coordinates and X the points less their mean, the turn is U = A B^T of the singular value decomposition
    S^T X = A Sigma B^T, and r = trace(Sigma) / C.

    Args:
        points: (C, d) finite floats, C >= 2, d >= C - 1.

    Returns:
        (C, d) vertices and the scalar r >= 0, in the points' type.

    Raises:
        ValueError: fewer than two points, or too few dimensions.
    """
    classes, dimension = points.shape
    vertices = max_mahalanobis_centres(classes, dimension)[:, : classes - 1].to(points.device, torch.float64)
    middle = points.double().mean(0)
    left, values, right = torch.linalg.svd(vertices.T @ (points.double() - middle), full_matrices=False)
    radius = values.sum() / classes
    found = middle + radius * (vertices @ (left @ right))
    return found.to(points), radius.to(points)
