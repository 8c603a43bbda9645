"""How far the closest misclassified images are: mean l2 norms under C&W and DDN (MAT, Table 2)."""

from corral.analysis.document import NONE_RIGHT, Found
from corral.analysis.registry import register_analysis
from corral.analysis.subject import AnalysedModel, labels_of
from corral.analysis.views import ViewName, view


@register_analysis(
    "norms",
    short="Distance of the closest misclassified image",
    title="How far is the closest misclassified image?",
    text="l2 distances found by Carlini and Wagner's attack and by DDN, of the images that are classified right "
    "without attack and misclassified by it. They are upper bounds of the true distances: a masked gradient makes them "
    "larger, not the model safer.",
    columns=(
        ("C&W, mean", "cw", 1.0, 3),
        ("C&W, median", "cw median", 1.0, 3),
        ("C&W success, %", "cw broken", 100.0, 1),
        ("DDN, mean", "ddn", 1.0, 3),
        ("DDN, median", "ddn median", 1.0, 3),
        ("DDN success, %", "ddn broken", 100.0, 1),
    ),
    unit="l2 in pixels of [0, 1]; mean ± sd over seeds",
    page=50,
    minimal_attacks=("DDN", "C&W"),
)
def minimal_norms(subject: AnalysedModel) -> Found:
    """Mean and median l2 distance of the closest misclassified points that C&W and DDN find.

    Over the images that are classified right without attack and misclassified by the attack.

    Numbers, for `cw` and `ddn`: `NAME` (mean), `NAME median`, missing where no image is misclassified; `NAME broken`,
    the attack success rate over the `right` images classified right. Series: `NAME distances`, ascending.
    """
    labels = labels_of(subject.test)
    clean = view(subject, "clean").predicted == labels
    numbers = {"right": float(clean.sum())}
    series: dict[str, tuple[float, ...]] = {}
    reason = "the attack makes none of them misclassified" if bool(clean.any()) else NONE_RIGHT
    names: tuple[ViewName, ...] = ("cw", "ddn")
    for name in names:
        seen = view(subject, name)
        found = seen.distances[seen.broken]
        if bool(clean.any()):
            numbers[f"{name} broken"] = float(seen.broken.sum() / clean.sum())
        if len(found):
            numbers |= {name: float(found.mean()), f"{name} median": float(found.median())}
        series[f"{name} distances"] = tuple(found.sort().values.tolist())
    absent = {f"{name}{part}": reason for name in names for part in ("", " median", " broken")}
    return Found(numbers, series, absent=absent)
