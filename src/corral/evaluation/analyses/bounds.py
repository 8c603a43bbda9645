"""How far the critique's bounds (Eq. 3) leave the papers' radius open, and how often that radius is too large."""

import torch

from corral.certify import critique_bounds
from corral.evaluation.analyses.document import Analysis, Subject
from corral.training.features import extract_features

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def radius_bounds(subject: Subject) -> Analysis:
    """Eq. 3 of the critique on the test images that the nearest centroid classifies right, in units of sigma.

    Numbers: `accuracy` (nearest rule), `own` and `rival` (medians of d and d'), `lower`, `pair_unsound`, `upper`,
    `sound` (medians), `too_large` (share of images whose published radius exceeds the sound one), `outside` (largest
    violation of Eq. 3: at most rounding). Series: the quantiles 10, 25, 50, 75, 90% of each radius.
    """
    head = subject.head
    features = extract_features(subject.model, subject.test)
    assert subject.test.labels is not None
    found = critique_bounds(features, subject.test.labels, head.centroids, head.classes)
    right = found.lower > 0
    sigma = float(head.variance.double().sqrt())
    numbers = {"accuracy": float(right.double().mean()), "sigma": sigma, "clusters": float(len(head.centroids))}
    series: dict[str, tuple[float, ...]] = {}
    if bool(right.any()):
        lower, pair, upper, sound = (
            values[right] / sigma for values in (found.lower, found.pair_unsound, found.upper, found.sound)
        )
        numbers |= {
            "own": float((upper - lower).median()),
            "rival": float((upper + lower).median()),
            "too_large": float((pair > sound * (1 + 1e-9)).double().mean()),
            "outside": float(torch.maximum(lower - pair, pair - upper).max()),
        }
        at = torch.tensor(QUANTILES, dtype=torch.float64, device=lower.device)
        for name, values in (("lower", lower), ("pair_unsound", pair), ("upper", upper), ("sound", sound)):
            numbers[name] = float(values.median())
            series[name] = tuple(values.quantile(at).tolist())
    return subject.found("bounds", numbers, series)
