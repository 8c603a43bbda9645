"""How compact classes are in feature space: silhouette and scatter, clean and under PGD."""

import torch
from torch import Tensor

from corral.analysis.document import Found
from corral.analysis.registry import register_analysis
from corral.analysis.subject import AnalysedModel, labels_of
from corral.analysis.views import ViewName, view


@register_analysis(
    "compactness",
    short="Compactness",
    title="How compact are the classes?",
    text="Silhouette width (1: every image is far nearer to its own class than to any other; 0: between two; "
    "below: nearer to another) and variance within over variance between classes, of clean features and under PGD.",
    columns=(
        ("silhouette, clean", "silhouette clean", 1.0, 3),
        ("silhouette, PGD", "silhouette pgd", 1.0, 3),
        ("by predicted class, clean", "silhouette predicted clean", 1.0, 3),
        ("by predicted class, PGD", "silhouette predicted pgd", 1.0, 3),
        ("within / between, clean", "ratio clean", 1.0, 3),
        ("within / between, PGD", "ratio pgd", 1.0, 3),
    ),
    unit="mean ± sd over seeds",
    page=40,
    attacks=("PGD",),
)
def compactness(subject: AnalysedModel) -> Found:
    """Silhouette and scatter of the test features by true class.

    Numbers, for `clean` and `pgd`: `silhouette NAME`, the mean silhouette width in [-1, 1] (Rousseeuw 1987), by true
    class; `silhouette predicted NAME`, by predicted class; `within NAME` and `between NAME`, the mean squared distance
    of features to their class mean and of class means to the overall one, weighted by members; `ratio NAME`, within
    over between. What is not defined (a single predicted class) is left out.
    """
    from sklearn.metrics import silhouette_score

    labels = labels_of(subject.test)
    numbers: dict[str, float] = {}
    absent: dict[str, str] = {}
    names: tuple[ViewName, ...] = ("clean", "pgd")
    for name in names:
        seen = view(subject, name)
        for words, groups in ((f"silhouette {name}", labels), (f"silhouette predicted {name}", seen.predicted)):
            distinct = len(torch.unique(groups))
            absent[words] = f"{len(groups)} images in {distinct} of the classes: it needs 2 classes, one with 2 images"
            if 2 <= distinct < len(groups):
                numbers[words] = float(silhouette_score(seen.features.cpu().numpy(), groups.cpu().numpy()))
        within, between = scatter(seen.features.double(), labels)
        numbers |= {f"within {name}": within, f"between {name}": between}
        absent[f"ratio {name}"] = "the means of the classes are equal"
        if between > 0:
            numbers[f"ratio {name}"] = within / between
    return Found(numbers, absent=absent)


def scatter(features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean squared distance of (n, d) features to their class mean, and of class means to the mean of all."""
    within = between = 0.0
    centre = features.mean(0)
    for label in torch.unique(labels):
        members = features[labels == label]
        mean = members.mean(0)
        within += float((members - mean).square().sum())
        between += len(members) * float((mean - centre).square().sum())
    return within / len(features), between / len(features)
