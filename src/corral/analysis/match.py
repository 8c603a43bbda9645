"""Whether what lies near in feature space is decided alike: MAT's match rate (its Sec. 1.2 and Table 1)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corral.analysis.document import Found
from corral.analysis.registry import register_analysis
from corral.analysis.subject import AnalysedModel
from corral.analysis.views import ViewName, view
from corral.geometry import squared_distances

VIEWS: tuple[ViewName, ...] = ("clean", "pgd", "ddn")


@register_analysis(
    "match",
    short="Match rate",
    title="Do near features mean the same decision?",
    text="MAT's match rate: Ward's clusters of the clean features, as many as classes; the share of images whose "
    "predicted class is the dominant one of the cluster with the nearest mean. Under DDN, of the images that it "
    "makes misclassified. A low rate under attack means that adversarial images lie among features of the class that "
    "they left.",
    columns=(
        ("clean", "clean", 100.0, 1),
        ("PGD", "pgd", 100.0, 1),
        ("DDN", "ddn", 100.0, 1),
        ("clusters", "clusters", 1.0, 0),
    ),
    unit="percent of the test images; mean ± sd over seeds",
    page=20,
    attacks=("PGD",),
    minimal_attacks=("DDN",),
)
def match_rate(subject: AnalysedModel) -> Found:
    """Share of images whose predicted class is the dominant one of the nearest cluster of clean features.

    Ward's hierarchical clustering of the clean test features, cut at as many clusters as there are classes (MAT does
    not say where it cut); the distance to a cluster is that to its mean; its dominant class is the one that most of
    its members are predicted as. Under DDN only the images that it makes misclassified count.

    Numbers: `clean`, `pgd`, `ddn`, shares in [0, 1]; `clusters`; `broken ddn`, how many images that is of. Of fewer
    images than classes only `clusters`.
    """
    clean = view(subject, "clean")
    count, images = len(subject.classes), len(clean.features)
    if images < count:
        reason = f"{images} test images are fewer than the {count} clusters, one a class: raise --n"
        return Found({"clusters": float(count)}, absent=dict.fromkeys(VIEWS, reason))
    members = torch.from_numpy(ward(clean.features, count)).to(clean.features.device)
    means = torch.stack([clean.features[members == cluster].mean(0) for cluster in range(count)])
    votes = torch.zeros(count, count, device=means.device)
    votes.index_put_((members, clean.predicted), torch.ones(len(members), device=means.device), accumulate=True)
    dominant = votes.argmax(1)
    numbers = {"clusters": float(count)}
    for name in VIEWS:
        seen = view(subject, name)
        counted = seen.broken if name == "ddn" else torch.ones_like(seen.broken)
        nearest = squared_distances(seen.features, means).argmin(1)
        matched = (dominant[nearest] == seen.predicted)[counted]
        if len(matched):
            numbers[name] = float(matched.double().mean())
    numbers["broken ddn"] = float(view(subject, "ddn").broken.sum())
    return Found(numbers, absent={"ddn": "DDN makes no image misclassified that is classified right"})


def ward(features: Tensor, clusters: int) -> NDArray[np.int64]:
    """(n,) clusters of (n, d) features by Ward's criterion (1963): ever the merge that adds least variance."""
    from sklearn.cluster import AgglomerativeClustering

    found: NDArray[np.int64] = AgglomerativeClustering(n_clusters=clusters, linkage="ward").fit_predict(
        features.double().cpu().numpy()
    )
    return found
