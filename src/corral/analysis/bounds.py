"""How far the critique's bounds (Eq. 3) leave the papers' radius open, and how often that radius is too large."""

import torch

from corral.analysis.document import NONE_RIGHT, Found
from corral.analysis.registry import register_analysis
from corral.analysis.subject import AnalysedModel, labels_of
from corral.certify import critique_bounds, nearest_radius, published_radius_unsound
from corral.training.features import extract_features

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
# The exact radius is found to some 1e-6; a published radius counts as too large where it exceeds it by more than this.
CLEARLY = 1e-3


@register_analysis(
    "bounds",
    short="Bounds",
    title="The critique's bounds (Eq. 3) and what they leave open",
    text="Medians over the test images that the nearest centroid classifies right, in units of σ and in feature "
    "space: divided by the backbone's Lipschitz constant they would be radii in pixels. More clusters bring the "
    "own centroid nearer (d) and the rival too (d′). The published radius looks at one pair of centroids alone, "
    "the exact one is the distance to the nearest point that another class decides: where the published one is "
    "larger (by over 0.1%), it promises too much.",
    columns=(
        ("clusters", "clusters", 1.0, 0),
        ("right by the nearest centroid, %", "accuracy", 100.0, 1),
        ("d", "own", 1.0, 3),
        ("d′", "rival", 1.0, 3),
        ("lower bound", "lower", 1.0, 3),
        ("published radius", "pair_unsound", 1.0, 3),
        ("upper bound", "upper", 1.0, 3),
        ("exact radius", "exact", 1.0, 3),
        ("published one too large, % of images", "too_large", 100.0, 1),
    ),
    unit="medians over images in units of σ; mean ± sd over seeds",
    page=70,
    needs_clusters=True,
)
def radius_bounds(subject: AnalysedModel) -> Found:
    """Eq. 3 of the critique on the test images that the nearest centroid classifies right, in units of sigma.

    Numbers: `accuracy` (nearest rule), `own` and `rival` (medians of d and d'), `lower`, `pair_unsound`, `upper`,
    `exact` (medians), `too_large` (share of images whose published radius is over the exact one by more than 0.1%: a
    point nearer than promised is decided otherwise), `outside` (largest violation of Eq. 3: at most rounding). Series:
    the quantiles 10, 25, 50, 75, 90% of each radius.
    """
    found = subject.clusters
    features = extract_features(subject.model, subject.test)
    clusters = (features, found.centroids, found.classes)
    bounds = critique_bounds(*clusters)
    # The radius is that of the nearest rule, at any centroid of a class: no other rule is asked for the decision.
    nearest = torch.cdist(features.double(), found.centroids.double()).argmin(1)
    right = found.classes[nearest] == labels_of(subject.test)
    sigma = float(found.variance.double().sqrt())
    numbers = {"accuracy": float(right.double().mean()), "sigma": sigma, "clusters": float(len(found.centroids))}
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
    shown = ("own", "rival", "lower", "pair_unsound", "upper", "exact", "too_large")
    return Found(numbers, series, absent=dict.fromkeys(shown, NONE_RIGHT))
