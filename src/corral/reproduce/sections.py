"""The analyses of a table's rows as sections of its page: a table each, words, and what is drawn of them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from corral.evaluation.analyses.document import Analysis, AnalysisName
from corral.reproduce.result import ResultPart, ResultRow

NONE = "–"


@dataclass(frozen=True)
class Section:
    """One analysis over the rows that have it.

    Attributes:
        name: the analysis.
        title: what it asks.
        text: what was done and how to read it.
        columns: headings; the first is of the rows' own names.
        rows: cells as text, the first of each row its name.
        unit: of the cells.
    """

    name: AnalysisName
    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    unit: str


def sections(part: ResultPart) -> tuple[Section, ...]:
    """The sections of a part, for the analyses that any of its rows has."""
    made = []
    for name, build in _BUILDERS.items():
        rows = [row for row in part.rows if row.analyses.get(name)]
        if rows:
            made.append(build(rows))
    return tuple(made)


def over_seeds(analyses: Sequence[Analysis], number: str, *, scale: float = 1.0, digits: int = 1) -> str:
    """Mean and sample standard deviation of a number over the seeds; a dash where no seed has it."""
    values = [scale * analysis.numbers[number] for analysis in analyses if number in analysis.numbers]
    if not values:
        return NONE
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def mean_series(analyses: Sequence[Analysis], name: str) -> tuple[float, ...]:
    """The mean curve over the seeds."""
    curves = [analysis.series[name] for analysis in analyses if name in analysis.series]
    return tuple(statistics.mean(values) for values in zip(*curves, strict=True))


def mean_number(analyses: Sequence[Analysis], number: str) -> float:
    """The mean of a number over the seeds, all of which have it."""
    return statistics.mean(analysis.numbers[number] for analysis in analyses)


def _by_row(
    rows: Sequence[ResultRow], name: AnalysisName, columns: Sequence[tuple[str, str, float, int]]
) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            row.name,
            *(over_seeds(row.analyses[name], key, scale=scale, digits=digits) for _, key, scale, digits in columns),
        )
        for row in rows
    )


def _along(rows: Sequence[ResultRow]) -> Section:
    columns = [
        ("d²/2σ² to the own centroid", "own", 1.0, 1),
        ("to the nearest rival", "rival", 1.0, 1),
        ("kept, exponentiated", "kept exponentiated", 100.0, 1),
        ("kept, log space", "kept log", 100.0, 1),
    ]
    ends = [
        (f"{title}, {score}, {when}", f"{kind} {score}", place, shown)
        for kind, title, shown in (("zero", "gradient 0", "{:.1%}"), ("norm", "gradient norm", "{:.1e}"))
        for score in ("exponentiated", "log")
        for place, when in ((0, "start"), (-1, "end"))
    ]
    ends += [
        (f"pixels of one sign, {when}", "alike exponentiated", place, "{:.1%}")
        for place, when in ((0, "start"), (-1, "end"))
    ]
    cells = []
    for row, line in zip(rows, _by_row(rows, "along", columns), strict=True):
        curves = [mean_series(row.analyses["along"], series) for _, series, _, _ in ends]
        shown = [end[3].format(curve[end[2]]) if curve else NONE for end, curve in zip(ends, curves, strict=True)]
        cells.append((*line, *shown))
    return Section(
        name="along",
        title="The gradient along the attack",
        text="The published PGD-20, one restart, from the same random starts by either kind of score, on the test "
        "images that are classified right. Float32 has exp(-x) = 0 from x = 104 on; long before that a rival's score "
        "vanishes beside the own one, and the gradient no longer says where the rival is: “pixels of one sign” is how "
        "far the two gradients agree at the exponentiated attack's own points (50% is chance).",
        columns=("trained", *(title for title, *_ in columns), *(title for title, *_ in ends)),
        rows=tuple(cells),
        unit="percent of images; d²/2σ² and norms are medians over images; mean, ± sd, over seeds",
    )


_CHANGES = {
    "clean": "no attack",
    "published": "as published: exponentiated scores of the D nearest clusters, verdict of the restart of highest loss",
    "every cluster": "… scores of every cluster (no D-nearest cut)",
    "log scores, cut": "… log-space scores, of the D nearest clusters",
    "log scores": "… log-space scores, of every cluster",
    "any iterate": "… any iterate of any restart counts",
    "whole ball": "… steps of eps/8, which cross the ball",
    "log scores, any iterate": "log-space scores, and any iterate counts",
    "log scores, any iterate, whole ball": "log-space scores, any iterate, and steps of eps/8",
    "clean, batch statistics": "no attack, the model in train mode (statistics of the test batch)",
    "batch statistics": "… the model in train mode",
}


def _changes(rows: Sequence[ResultRow]) -> Section:
    found = []
    for key, title in _CHANGES.items():
        cells = tuple(over_seeds(row.analyses["changes"], key, scale=100.0) for row in rows)
        if any(cell != NONE for cell in cells):
            found.append((title, *cells))
    return Section(
        name="changes",
        title="The published attack with one part changed",
        text="PGD-20, 10 restarts, step 2/255. Each line with “…” changes one thing of the published protocol and "
        "nothing else, so that what it takes away was that part's doing.",
        columns=("attack", *(row.name for row in rows)),
        rows=tuple(found),
        unit="percent of the test images that are kept; mean ± sd over seeds",
    )


@dataclass(frozen=True)
class _Plain:
    """A section whose rows are the runs and whose cells are numbers of their analyses.

    `columns` have the heading, the number, the factor to show it with and the decimals.
    """

    title: str
    text: str
    columns: tuple[tuple[str, str, float, int], ...]
    unit: str


_PLAIN: dict[AnalysisName, _Plain] = {
    "features": _Plain(
        title="What clusters read off the features",
        text="Test accuracy on the frozen features of each run: by logistic regression, by k-means centroids of the "
        "training features (two a class), and by as many clusters found without labels, each given the class of most "
        "of its members.",
        columns=(
            ("linear probe", "linear", 100.0, 1),
            ("2 centroids a class, nearest", "nearest", 100.0, 1),
            ("the same, soft (Eq. 4)", "soft", 100.0, 1),
            ("the same, released float32 scores", "published", 100.0, 1),
            ("k-means without labels, majority class", "majority", 100.0, 1),
        ),
        unit="percent of the test images; mean ± sd over seeds",
    ),
    "adversary": _Plain(
        title="What QTRADES' adversary is in training",
        text="On training images: one step of 1.25 eps from uniform noise, up the released code's consistency term "
        "(exponentiated scores) or up the same in log space; both measured by KL(p(x) ‖ p(x′)) in log space, so that "
        "noise and a step along random signs can stand beside them. “Way gone” is the share of the way from noise to "
        "20 log-space steps.",
        columns=(
            ("noise", "kl noise", 1.0, 3),
            ("random step", "kl random step", 1.0, 3),
            ("released step", "kl released", 1.0, 3),
            ("log-space step", "kl log", 1.0, 3),
            ("20 log-space steps", "kl strong", 1.0, 3),
            ("way gone, released, %", "share released", 100.0, 0),
            ("way gone, log space, %", "share log", 100.0, 0),
            ("gradient exactly 0, released, %", "zero released", 100.0, 1),
            ("pixels of one sign, %", "alike", 100.0, 1),
            ("right after noise, %", "right noise", 100.0, 1),
            ("after released step, %", "right released", 100.0, 1),
            ("after log-space step, %", "right log", 100.0, 1),
            ("after 20 steps, %", "right strong", 100.0, 1),
        ),
        unit="mean KL in nats, or percent as the column says; mean ± sd over seeds",
    ),
    "bounds": _Plain(
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
    ),
    "radii": _Plain(
        title="Certified and true radii",
        text="Medians over the test points that are classified right, in l2. The Lipschitz constant is exact to 0.1%, "
        "by branch and bound on the unit square; “global” is the distance to the decision's boundary in feature space "
        "over it (Theorem 1), “local” uses the constant around each point, “true” is the nearest point of a grid of "
        "801 × 801 that is decided otherwise. “Room” is true over global.",
        columns=(
            ("accuracy, %", "accuracy", 100.0, 1),
            ("Lipschitz constant", "lipschitz", 1.0, 1),
            ("global radius", "global", 1.0, 4),
            ("local radius", "local", 1.0, 4),
            ("true radius", "true", 1.0, 4),
            ("room", "room", 1.0, 2),
        ),
        unit="medians over points; mean ± sd over seeds",
    ),
}


def _plain(name: AnalysisName, rows: Sequence[ResultRow]) -> Section:
    """A section of `_PLAIN`."""
    meant = _PLAIN[name]
    return Section(
        name=name,
        title=meant.title,
        text=meant.text,
        columns=("trained", *(title for title, *_ in meant.columns)),
        rows=_by_row(rows, name, meant.columns),
        unit=meant.unit,
    )


_BUILDERS: dict[AnalysisName, Callable[[Sequence[ResultRow]], Section]] = {
    "features": partial(_plain, "features"),
    "along": _along,
    "changes": _changes,
    "adversary": partial(_plain, "adversary"),
    "bounds": partial(_plain, "bounds"),
    "radii": partial(_plain, "radii"),
}
