"""How far the closest misclassified images are: mean l2 norms under C&W and DDN (MAT, Table 2)."""

from corral.evaluation.analyses.document import Analysis, Subject
from corral.evaluation.analyses.views import ViewName, view


def minimal_norms(subject: Subject) -> Analysis:
    """Mean and median l2 distance of the closest misclassified points that C&W and DDN find.

    Over the images that are classified right without attack and that the attack broke; an image misclassified as it is
    has no part in it. With pixels in [0, 1], as everywhere.

    Numbers, for `cw` and `ddn`: `NAME` (mean), `NAME median`, `NAME broken`, the share of the images classified right
    that it broke. Mean and median are missing where it broke none. `right`, how many those images are. Series: `NAME
    distances`, ascending.
    """
    labels = subject.test.labels
    assert labels is not None
    clean = view(subject, "clean").predicted == labels
    numbers = {"right": float(clean.sum())}
    series: dict[str, tuple[float, ...]] = {}
    names: tuple[ViewName, ...] = ("cw", "ddn")
    for name in names:
        seen = view(subject, name)
        found = seen.distances[seen.broken]
        if bool(clean.any()):
            numbers[f"{name} broken"] = float(seen.broken.sum() / clean.sum())
        if len(found):
            numbers |= {name: float(found.mean()), f"{name} median": float(found.median())}
        series[f"{name} distances"] = tuple(found.sort().values.tolist())
    return subject.found("norms", numbers, series)
