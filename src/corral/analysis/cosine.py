"""How near features lie to the centre of the class that they are decided for (MAT, Sec. 4.5 and Table 5)."""

import torch

from corral.analysis.document import Found
from corral.analysis.registry import register_analysis
from corral.analysis.subject import AnalysedModel
from corral.analysis.views import ViewName, centres_of, own_centre, view
from corral.losses import bibo_distance

PARTS = ("", " sd", " of classes", " sd of classes")


@register_analysis(
    "cosine",
    short="Cosine to the predicted class's centre",
    title="Cosine to the predicted class's centre",
    text="Mean of the cosine between features and the nearest centre of the class that they are decided for, at "
    "the mean of all centres; its standard deviation over the classes' own means, as MAT's text has it, and over "
    "all images. A linear head's centres are its classes' mean training features. High under attack too: the "
    "attack moves features all the way into another cluster.",
    columns=(
        ("clean", "clean", 1.0, 3),
        ("sd of classes", "clean sd of classes", 1.0, 3),
        ("sd of images", "clean sd", 1.0, 3),
        ("PGD", "pgd", 1.0, 3),
        ("sd of classes, PGD", "pgd sd of classes", 1.0, 3),
        ("sd of images, PGD", "pgd sd", 1.0, 3),
    ),
    unit="cosines; mean ± sd over seeds",
    page=30,
    attacks=("PGD",),
)
def centre_cosine(subject: AnalysedModel) -> Found:
    """Cosine of features with the nearest centre of their predicted class, clean and under PGD.

    Angles are at the mean of all centres: for a simplex around 0, as MAT's, at 0 itself.

    MAT's mean and deviation are “within class and over different classes, respectively” (Sec. 4.5): of the images
    predicted as a class the mean, and of these means the mean and the standard deviation over the classes that any
    image is predicted as.

    Numbers: `clean of classes`, `clean sd of classes` as MAT's, and over all images `clean`, `clean sd`; the same of
    `pgd`. Series: `clean by class`, `pgd by class`, the classes' means (0 where there are none), and `clean sd by
    class`, `pgd sd by class`, within each.
    """
    centres, classes = centres_of(subject)
    origin = centres.mean(0)
    numbers: dict[str, float] = {}
    series: dict[str, tuple[float, ...]] = {}
    absent: dict[str, str] = {}
    names: tuple[ViewName, ...] = ("clean", "pgd")
    for name in names:
        seen = view(subject, name)
        # A class without training images has no centre.
        known = torch.isin(seen.predicted, classes)
        if not bool(known.any()):
            absent |= dict.fromkeys((f"{name}{part}" for part in PARTS), "no predicted class has a centre")
            continue
        features, predicted = seen.features[known], seen.predicted[known]
        own = own_centre(features, centres, classes, predicted)
        cosines = 1 - bibo_distance(features - origin, own - origin).double()
        numbers |= {name: float(cosines.mean()), f"{name} sd": float(cosines.std(correction=0))}
        of_class = [cosines[predicted == label] for label in range(len(subject.classes))]
        means = torch.stack([values.mean() for values in of_class if len(values)])
        numbers |= {f"{name} of classes": float(means.mean()), f"{name} sd of classes": float(means.std(correction=0))}
        series[f"{name} by class"] = tuple(float(values.mean()) if len(values) else 0.0 for values in of_class)
        spreads = (float(values.std(correction=0)) if len(values) else 0.0 for values in of_class)
        series[f"{name} sd by class"] = tuple(spreads)
    return Found(numbers, series, absent=absent)
