"""The page's figures with their legends and captions; imports matplotlib, so import this file only to draw."""

from collections.abc import Sequence
from typing import Any

from corral.records import Curve
from corral.report.runs.collect import Evidence
from corral.report.runs.compare import RunGroup
from corral.report.runs.figures import MOST_POINTS, curves_figure, features_figure, spans_figure
from corral.report.runs.pictures import magnified, pictures
from corral.report.runs.protocols import rises
from corral.report.runs.tables import run_numbers
from corral.report.svg import PageFigure
from corral.report.words import attack_title, listed, percent


def spans_panel(group: RunGroup, numbers: dict[str, int], name: str) -> PageFigure:
    """The figure of each entry's accuracies, clean and under attack.

    Args:
        group: of comparable runs.
        numbers: the runs' on the page.
        name: unique on the page.
    """
    attacks = group.attacks
    spans = []
    for entry in group.entries:
        estimates = [entry.clean(), *(entry.under(key) for key in attacks)]
        spans.append((entry.label, [None if e is None else e.mean for e in estimates]))
    titles = ["clean", *map(attack_title, attacks)]
    described = "; ".join(
        f"{label}: " + ", ".join(f"{t} {percent(a)}" for t, a in zip(titles, values, strict=True) if a is not None)
        for label, values in spans
    )
    chance = 1 / len(group.record.classes)
    description = f"Accuracy of each run. {described}."
    runs = [run_numbers(entry.members, numbers) for entry in group.entries]
    return spans_figure(spans, titles, chance=chance, name=f"{name}s", description=description, runs=runs)


def curve_panels(group: RunGroup, numbers: dict[str, int], name: str) -> list[dict[str, Any]]:
    """One figure, with legend and caption, for each attack that has curves; `numbers` are the runs' on the page."""
    drawn: dict[tuple[str, str], list[tuple[str, Curve]]] = {}
    for piece in group.members:
        for curve in piece.record.curves:
            drawn.setdefault((curve.attack, curve.norm), []).append((piece.label, curve))
    panels = []
    for i, ((attack, norm), lines) in enumerate(drawn.items()):
        chance = 1 / len(group.record.classes)
        described = "; ".join(
            f"{label}: " + ", ".join(f"{percent(a)} at {e:g}" for e, a in zip(curve.eps, curve.accuracy, strict=True))
            for label, curve in lines
        )
        counts = listed([f"{n:,}" for n in sorted({curve.n for _, curve in lines})])
        figure = curves_figure(
            [(numbers[label], label, curve) for label, curve in lines], chance=chance,
            eps=group.record.eps if norm == group.record.norm else None, name=f"{name}c{i}",
            description=f"Accuracy against {norm} eps under {attack_title(attack)}. {described}.",
        )  # fmt: skip
        caption = (
            f"Attack: {attack_title(attack)}, at growing {norm} eps, on the first {counts} evaluated images. "
            "Higher is better; a grey upright line marks the eps of the table. A curve that does not fall toward "
            f"zero, or that rises, is a sign that the attack fails, not that the model is robust.{_rising(lines)}"
        )
        legend = [(numbers[label], label) for label, _ in lines]
        panels.append({"figure": figure, "legend": legend, "caption": caption})
    return panels


def _rising(lines: Sequence[tuple[str, Curve]]) -> str:
    """Names the runs whose accuracy rises with eps."""
    risen = [label for label, curve in lines if rises(curve)]
    return f" Here it rises for {listed(risen)}: do not trust that curve." if risen else ""


def run_panel(piece: Evidence, number: int, name: str, room: int) -> dict[str, Any]:
    """One run's features and images.

    Args:
        piece: the run.
        number: the run's on the page.
        name: unique on the page.
        room: most bytes of its pictures.
    """
    arrays, classes = piece.arrays, piece.record.classes
    total = len(arrays.features_labels)
    shown = min(total, MOST_POINTS)
    wrong = int((arrays.features_predicted[:shown] != arrays.features_labels[:shown]).sum())
    clusters = len(arrays.centroids2d)
    first = f"The first {shown:,} of {total:,}" if shown < total else f"{shown:,}"
    stars = f"{clusters} centroids" if clusters else "no centroids (linear head)"
    projection = str(arrays.projection.item())
    caption = f"{projection[:1].upper()}{projection[1:]}. {first} test images, {wrong} predicted wrong, {stars}."
    if len(classes) > 10:
        caption += " Colours repeat every ten classes."
    described = (
        f"Test features of {piece.label} in two dimensions, {wrong} of {shown} predicted wrong, {clusters} centroids."
    )
    return {
        "label": piece.label,
        "number": number,
        "features": features_figure(arrays, classes, name=f"{name}f", description=described),
        "features_caption": caption,
        "pictures": pictures(arrays, classes, room=room),
        "magnified": magnified(arrays),
        "pixelated": max(arrays.images.shape[2:]) <= 64,
    }
