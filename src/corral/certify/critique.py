"""The bounds of ClusTR's critique (Eq. 3) on the papers' radius, in feature space."""

from dataclasses import dataclass

import torch
from torch import Tensor

from corral.geometry.scores import class_index


@dataclass(frozen=True)
class CritiqueBounds:
    """For each feature, its radius by the papers' pair of centroids and what Eq. 3 encloses it with.

    All are (N,) float64 lengths in feature space: over a Lipschitz constant of the backbone they are lengths in pixels.

    Attributes:
        lower: (d' - d) / 2, with d the distance to the nearest own centroid, d' to the nearest rival one.
        pair_unsound: (d'^2 - d^2) / (2 ||mu' - mu||), the papers' radius. With more than two classes another rival's
            bisector may be nearer: it is no certificate.
        upper: (d' + d) / 2.
        sound: the largest over own centroids of the smallest over all rivals of that expression: exact for one cluster
            a class, a certificate always (design/certificates.md, nearest rule).
    """

    lower: Tensor
    pair_unsound: Tensor
    upper: Tensor
    sound: Tensor


def critique_bounds(features: Tensor, labels: Tensor, centroids: Tensor, classes: Tensor) -> CritiqueBounds:
    """Eq. 3 of the critique around each feature: (d' - d) / 2 <= radius <= (d' + d) / 2.

    Where the nearest centroid is a rival's, the feature is misclassified: `lower`, `pair_unsound` and `sound` are then
    negative, the distance back to the own class.

    Args:
        features: (N, d).
        labels: (N,) integers, the classes whose centroids are the own ones.
        centroids: (M, d), no two of different classes equal.
        classes: (M,) integers, the class of each centroid; at least two classes.

    Raises:
        ValueError: a label without a centroid, fewer than two classes, or equal centroids of different classes.
    """
    class_index(classes)
    if int(classes.max()) < 1:
        raise ValueError("bounds need centroids of at least two classes")
    if not bool(torch.isin(labels, classes).all()):
        raise ValueError("every label needs a centroid of its class, found a label without one")
    points, centres = features.double(), centroids.double()
    own = labels.unsqueeze(1) == classes
    # As differences: the product form cancels where points lie close to a centroid.
    distances = torch.stack([(points - centre).norm(dim=1) for centre in centres], 1)
    gaps = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
    rivals = classes.unsqueeze(1) != classes
    if bool((gaps[rivals] == 0).any()):
        raise ValueError("centroids of different classes are equal: there is nothing between them")
    nearest_own = distances.masked_fill(~own, torch.inf).min(1)
    nearest_rival = distances.masked_fill(own, torch.inf).min(1)
    d, other = nearest_own.values, nearest_rival.values
    pair = (other + d) * (other - d) / (2 * gaps[nearest_own.indices, nearest_rival.indices])
    squares = distances.square()
    margins = (squares.unsqueeze(1) - squares.unsqueeze(2)) / (2 * gaps)  # (N, own i, rival j)
    margins = margins.masked_fill(own.unsqueeze(1), torch.inf).amin(2)
    sound = margins.masked_fill(~own, -torch.inf).amax(1)
    return CritiqueBounds(lower=(other - d) / 2, pair_unsound=pair, upper=(other + d) / 2, sound=sound)
