"""How far the critique's bounds (Eq. 3) leave the papers' radius open, and how often that radius is too large."""

import torch

from corral.certify import critique_bounds, nearest_radius, published_radius_unsound
from corral.evaluation.analyses.document import Analysis, Subject
from corral.training.features import extract_features

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
# The exact radius is found to some 1e-6; a published radius counts as too large where it exceeds it by more than this.
CLEARLY = 1e-3


def radius_bounds(subject: Subject) -> Analysis:
    """Eq. 3 of the critique on the test images that the nearest centroid classifies right, in units of sigma.

    Numbers: `accuracy` (nearest rule), `own` and `rival` (medians of d and d'), `lower`, `pair_unsound`, `upper`,
    `exact` (medians), `too_large` (share of images whose published radius is over the exact one by more than 0.1%: a
    point nearer than promised is decided otherwise), `outside` (largest violation of Eq. 3: at most rounding). Series:
    the quantiles 10, 25, 50, 75, 90% of each radius.
    """
    head = subject.head
    features = extract_features(subject.model, subject.test)
    assert subject.test.labels is not None
    clusters = (features, head.centroids, head.classes)
    bounds = critique_bounds(*clusters)
    # The radius is that of the nearest rule, at any centroid of a class: no other rule is asked for the decision.
    nearest = torch.cdist(features.double(), head.centroids.double()).argmin(1)
    right = head.classes[nearest] == subject.test.labels
    sigma = float(head.variance.double().sqrt())
    numbers = {"accuracy": float(right.double().mean()), "sigma": sigma, "clusters": float(len(head.centroids))}
    series: dict[str, tuple[float, ...]] = {}
    if bool(right.any()):
        pair, exact = published_radius_unsound(*clusters), nearest_radius(*clusters)
        lower, pair, upper, exact = (values[right] / sigma for values in (bounds.lower, pair, bounds.upper, exact))
        numbers |= {
            "own": float((upper - lower).median()),
            "rival": float((upper + lower).median()),
            "too_large": float((pair > exact * (1 + CLEARLY)).double().mean()),
            "outside": float(torch.maximum(lower - pair, pair - upper).max()),
        }
        at = torch.tensor(QUANTILES, dtype=torch.float64, device=lower.device)
        for name, values in (("lower", lower), ("pair_unsound", pair), ("upper", upper), ("exact", exact)):
            numbers[name] = float(values.median())
            series[name] = tuple(values.quantile(at).tolist())
    return subject.found("bounds", numbers, series)
