"""The page's figures with their legends and captions; imports matplotlib, so import this file only to draw."""

import base64
import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from corral.records import Curve
from corral.report.runs.collect import Arrays, Evidence
from corral.report.runs.compare import RunGroup
from corral.report.runs.figures import MOST_POINTS, curves_figure, features_figure, spans_figure
from corral.report.words import attack_title, listed, percent

MOST_PICTURES = 10
LONGEST_SIDE = 96


def spans_panel(group: RunGroup, name: str) -> Markup:
    """The figure of each entry's accuracies, clean and under attack; `name` is unique on the page."""
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
    return spans_figure(spans, titles, chance=chance, name=f"{name}s", description=description)


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
        svg = curves_figure(
            [(numbers[label], curve) for label, curve in lines], chance=chance,
            eps=group.record.eps if norm == group.record.norm else None, name=f"{name}c{i}",
            description=f"Accuracy against {norm} eps under {attack_title(attack)}. {described}.",
        )  # fmt: skip
        caption = (
            f"Attack: {attack_title(attack)}, at growing {norm} eps, on the first {counts} evaluated images. "
            "Higher is better; a grey upright line marks the eps of the table. A curve that does not fall toward "
            f"zero, or that rises, is a sign that the attack fails, not that the model is robust.{_rising(lines)}"
        )
        legend = [(numbers[label], label) for label, _ in lines]
        panels.append({"svg": svg, "legend": legend, "caption": caption})
    return panels


def _rising(lines: Sequence[tuple[str, Curve]]) -> str:
    """Names the runs whose accuracy rises with eps by more than two standard errors (at most 1/sqrt(n))."""
    risen = []
    for label, curve in lines:
        accuracy = [a for _, a in sorted(zip(curve.eps, curve.accuracy, strict=True))]
        if any(later - earlier > curve.n**-0.5 for earlier, later in pairwise(accuracy)):
            risen.append(label)
    return f" Here it rises for {listed(risen)}: do not trust that curve." if risen else ""


def run_panel(piece: Evidence, number: int, name: str) -> dict[str, Any]:
    """One run's features and images; `number` is the run's on the page, `name` is unique there."""
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
        "pictures": pairs(arrays, classes),
        "pixelated": max(arrays.images.shape[2:]) <= 64,
    }


def pairs(arrays: Arrays, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The first `MOST_PICTURES` images of a run and their adversarial versions, with the predictions for each."""
    found = []
    for i, label in enumerate(arrays.images_labels[:MOST_PICTURES].tolist()):
        before, after = int(arrays.images_predicted[i]), int(arrays.images_adversarial_predicted[i])
        clean = {"uri": png_uri(arrays.images[i]), "predicted": classes[before], "right": before == label}
        moved = {"uri": png_uri(arrays.images_adversarial[i]), "predicted": classes[after], "right": after == label}
        found.append({"label": classes[label], "clean": clean, "adversarial": moved})
    return found


def png_uri(pixels: NDArray[Any]) -> str:
    """One image as a `data:` URI.

    Args:
        pixels: (C, H, W), uint8 or float in [0, 1]; three channels are red, green, blue, any other number is averaged
            to grey. Sides over `LONGEST_SIDE` are scaled down to it.
    """
    if not np.issubdtype(pixels.dtype, np.integer):
        pixels = np.rint(np.clip(pixels, 0, 1) * 255)
    flat = pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 else np.rint(pixels.mean(0))
    picture = Image.fromarray(np.ascontiguousarray(flat.astype(np.uint8)))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
