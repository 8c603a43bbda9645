"""Clean and adversarial features in the plane (MAT, Fig. 1)."""

import torch

from corral.analysis.document import Found
from corral.analysis.registry import register_analysis
from corral.analysis.subject import AnalysedModel, labels_of
from corral.analysis.views import view
from corral.errors import CorralError

# Images shown, clean and attacked; t-SNE's perplexity, less for fewer points.
MOST, PERPLEXITY = 300, 30.0


@register_analysis(
    "embedding",
    short="Features in the plane",
    title="Features in the plane",
    text="t-SNE of clean (dots) and PGD-attacked (triangles) test features in one embedding, by true and by "
    "predicted class. Triangles of one colour on the left and another on the right have changed their class; where "
    "they lie among dots of their new colour, the attack moves features into a cluster. Sizes of groups and "
    "distances between far ones mean nothing.",
    columns=(("images", "images", 1.0, 0), ("perplexity", "perplexity", 1.0, 0)),
    unit="counts",
    page=10,
    attacks=("PGD",),
)
def embedding(subject: AnalysedModel) -> Found:
    """t-SNE (van der Maaten and Hinton 2008) of the features of up to 300 test images and of their PGD versions.

    Both kinds go through one embedding, from a PCA start. Series, first all clean images and then all attacked ones:
    `first`, `second` (coordinates), `label`, `predicted` (classes), `attacked` (0 or 1). Numbers: `images` and
    `perplexity`. Distances between far groups and sizes of groups mean nothing in it.

    Raises:
        CorralError: all features are equal, so that there is nothing to place.
    """
    from sklearn.manifold import TSNE

    labels = labels_of(subject.test)
    count = min(MOST, len(labels))
    clean, moved = view(subject, "clean"), view(subject, "pgd")
    features = torch.cat([clean.features[:count], moved.features[:count]]).double().cpu().numpy()
    if (features.max(0) == features.min(0)).all():
        raise CorralError(f"{subject.name}: all features are equal, the network has collapsed")
    perplexity = min(PERPLEXITY, (2 * count - 1) / 3)
    placed = TSNE(init="pca", random_state=subject.seed % 2**32, perplexity=perplexity).fit_transform(features)
    series = {
        "first": placed[:, 0].tolist(),
        "second": placed[:, 1].tolist(),
        "label": [*labels[:count].tolist(), *labels[:count].tolist()],
        "predicted": [*clean.predicted[:count].tolist(), *moved.predicted[:count].tolist()],
        "attacked": [0] * count + [1] * count,
    }
    numbers = {"images": float(count), "perplexity": perplexity}
    return Found(numbers, {name: tuple(map(float, values)) for name, values in series.items()})
