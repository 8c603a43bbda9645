"""The bounds of ClusTR's critique (Eq. 3) on the papers' radius, in feature space."""

from dataclasses import dataclass

import torch
from torch import Tensor

from corral.geometry.radii.rounding import centred, check_clusters


@dataclass(frozen=True)
class CritiqueBounds:
    """For each feature, Eq. 3's bounds of the papers' radius (`published_radius_unsound`): (N,) float64 lengths.

    They are lengths in feature space: divided by a Lipschitz constant of the backbone, in pixels.

    Attributes:
        lower: (d' - d) / 2, with d the distance to the nearest centroid, d' to the nearest one of another class. By the
            triangle inequality a certificate, for any number of clusters.
        upper: (d' + d) / 2.
    """

    lower: Tensor
    upper: Tensor


def critique_bounds(features: Tensor, centroids: Tensor, classes: Tensor) -> CritiqueBounds:
    """Eq. 3 of the critique around each feature: (d' - d) / 2 <= published radius <= (d' + d) / 2.

    Args:
        features: (N, d) finite.
        centroids: (M, d) finite.
        classes: (M,) integers, of at least two classes.

    Raises:
        ValueError: other shapes or values than these.
    """
    check_clusters(features, centroids, classes)
    points, centres = centred(features, centroids)
    # As differences: the product form cancels where points lie close to a centroid.
    distances = torch.stack([(points - centre).norm(dim=1) for centre in centres], 1)
    classes = classes.to(centres.device)
    own = classes[distances.argmin(1)].unsqueeze(1) == classes
    nearest, rival = distances.masked_fill(~own, torch.inf).amin(1), distances.masked_fill(own, torch.inf).amin(1)
    return CritiqueBounds(lower=(rival - nearest) / 2, upper=(rival + nearest) / 2)
